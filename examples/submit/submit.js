// The tutorial's client: it submits a task to InstantAPI and gets a task_id at
// once. The webhook gets the result later.
//
//   go run ./examples/caddy instantapi sandbox        (or the real one, with your key)
//   export INSTANTAPI_URL=http://127.0.0.1:8090 INSTANTAPI_API_KEY=demo-key
//   export INSTANTAPI_WEBHOOK_URL=http://localhost:8080/webhooks/instantapi
//   node examples/submit/submit.js summarize 'A long text'
//
// Node 20 or later, and nothing to install.
'use strict';

async function submitAsyncTask(task, input, options = {}) {
  const response = await fetch(new URL('/api/v1/generate', env('INSTANTAPI_URL')), {
    method: 'POST',
    headers: {
      Authorization: `Bearer ${env('INSTANTAPI_API_KEY')}`,
      'Content-Type': 'application/json',
    },
    body: JSON.stringify({ task, input, options, webhook_url: env('INSTANTAPI_WEBHOOK_URL') }),
    redirect: 'error', // don't send the key anywhere else
    signal: AbortSignal.timeout(10_000),
  });
  const answer = await response.text();
  if (!response.ok) throw new Error(`InstantAPI answered ${response.status} ${answer}`);
  const { task_id: taskID } = JSON.parse(answer);
  if (!taskID) throw new Error('the answer has no task_id: is INSTANTAPI_URL right?');
  return taskID;
}

function env(name) {
  const value = process.env[name];
  if (!value) throw new Error(`set ${name}, see the top of submit.js`);
  // For a line break in a header, fetch throws an error that contains the key.
  if (/\s/.test(value)) throw new Error(`there is white space in ${name}`);
  return value;
}

module.exports = { submitAsyncTask };

if (require.main === module) {
  const [task, input] = process.argv.slice(2);
  if (!input) {
    console.error('usage: node submit.js <task> <input>');
    process.exit(2);
  }
  submitAsyncTask(task, input).then(console.log, (err) => {
    console.error(err.cause ? `${err.message}: ${err.cause.message}` : err.message);
    process.exitCode = 1;
  });
}
