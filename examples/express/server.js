// The tutorial's Express backend without its crypto and its list of seen tasks:
// Caddy lets only authentic and new events through. How to run it: Caddyfile.
'use strict';

const express = require('express');

const app = express();

// Express stops at 100 KB by default, Caddy (max_body_size) at 4 MiB.
app.use(express.json({ limit: '4mb' }));

app.post('/webhooks/instantapi', (req, res) => {
  const { event_type, task_id, status, result, usage } = req.body;

  // An exception in here makes the answer a 500, and so InstantAPI sends the
  // event again and Caddy forwards it again. Only a 2xx means delivered.
  switch (event_type) {
    case 'task.completed':
      console.log(`task.completed ${task_id} ${JSON.stringify({ result, usage })}`);
      break;
    case 'task.failed':
      console.log(`task.failed ${task_id} ${JSON.stringify({ status, result })}`);
      break;
    default:
      console.log(`ignored ${event_type} ${task_id}`);
  }
  res.json({ received: true });
});

// On 127.0.0.1, so that there is no way to it around Caddy.
const port = process.env.PORT || 3000;
app.listen(port, '127.0.0.1', (err) => {
  if (err) throw err;
  console.log(`listening on 127.0.0.1:${port}`);
});
