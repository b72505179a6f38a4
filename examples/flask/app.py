"""The tutorial's Flask backend without its hmac and its set of seen tasks.

Caddy lets only authentic and new events through. How to run it: Caddyfile.
"""

import json
import os

from flask import Flask, jsonify, request

app = Flask(__name__)


@app.post("/webhooks/instantapi")
def webhook():
    event = request.get_json()
    event_type, task_id = event.get("event_type"), event.get("task_id")

    # An exception in here makes the answer a 500, and so InstantAPI sends the
    # event again and Caddy forwards it again. Only a 2xx means delivered.
    if event_type == "task.completed":
        about = {"result": event.get("result"), "usage": event.get("usage")}
        print("task.completed", task_id, json.dumps(about), flush=True)
    elif event_type == "task.failed":
        about = {"status": event.get("status"), "result": event.get("result")}
        print("task.failed", task_id, json.dumps(about), flush=True)
    else:
        print("ignored", event_type, task_id, flush=True)
    return jsonify(received=True)


if __name__ == "__main__":
    # On 127.0.0.1, so that there is no way to it around Caddy. This is Flask's
    # development server; gunicorn and others take app:app as it is.
    app.run(host="127.0.0.1", port=int(os.environ.get("PORT", "5000")))
