// The tutorial's Express backend without its crypto and its list of seen tasks:
// Caddy lets only authentic and new events through. How to run it: Caddyfile.
'use strict';

const zlib = require('node:zlib');
const express = require('express');

const app = express();
const maxBody = 4 << 20; // Caddy's max_body_size; Express stops at 100 KB by default

// Read the raw body, whatever the headers say about it: the signature covers
// only the bytes. express.json() would refuse every attempt to deliver an event
// with another Content-Type or charset, or with none.
app.use((req, res, next) => {
  delete req.headers['content-encoding'];
  next();
});
app.use(express.raw({ type: () => true, limit: maxBody }));

app.post('/webhooks/instantapi', (req, res) => {
  const body = req.body ?? Buffer.alloc(0);
  let line;
  try {
    line = describe(parse(body));
  } catch {
    // The next attempt would bring the same bytes, so asking for one is
    // useless. Log the bytes for a person to look at.
    line = `unreadable ${req.get('Idempotency-Key')} ${body.toString('base64')}`;
  }

  // Process the event here. An exception makes the answer a 500, so InstantAPI
  // sends the event again and Caddy forwards it again. Only a 2xx means
  // delivered.
  console.log(line);
  res.json({ received: true });
});

// parse reads an event as leniently as it can: with a byte order mark, with
// bytes that are not UTF-8, with the NaN and Infinity that Python writes, and
// compressed.
function parse(body) {
  if (body[0] === 0x1f && body[1] === 0x8b) {
    body = zlib.gunzipSync(body, { maxOutputLength: maxBody });
  }
  const text = new TextDecoder().decode(body);
  let event;
  try {
    event = JSON.parse(text);
  } catch {
    event = JSON.parse(
      text.replace(/"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?$)|-?\b(?:NaN|Infinity)\b/gs, (token) => (token[0] === '"' ? token : 'null')),
    );
  }
  if (event === null || typeof event !== 'object' || Array.isArray(event)) throw new TypeError('not an object');
  return event;
}

// describe returns a line about an event.
function describe({ event_type, task_id, status, result, usage }) {
  switch (event_type) {
    case 'task.completed':
      return `task.completed ${show(task_id)} ${JSON.stringify({ result, usage })}`;
    case 'task.failed':
      return `task.failed ${show(task_id)} ${JSON.stringify({ status, result })}`;
    default:
      return `ignored ${show(event_type)} ${show(task_id)}`;
  }
}

// show writes a field, which may be missing or of any type. Only JSON.stringify
// writes all of them without throwing, and without line breaks.
function show(value) {
  return typeof value === 'string' && /^[\w.:-]+$/.test(value) ? value : JSON.stringify(value);
}

// Listen on 127.0.0.1, so that nobody can bypass Caddy.
const port = process.env.PORT || 3000;
app.listen(port, '127.0.0.1', (err) => {
  if (err) throw err;
  console.log(`listening on 127.0.0.1:${port}`);
});
