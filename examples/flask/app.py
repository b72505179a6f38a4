"""The tutorial's Flask backend without its hmac and its set of seen tasks.

Caddy lets only authentic and new events through. How to run it: Caddyfile.
"""

import base64
import json
import os
import re
import zlib

from flask import Flask, jsonify, request

app = Flask(__name__)
MAX_BODY = 4 << 20  # Caddy's max_body_size


@app.post("/webhooks/instantapi")
def webhook():
    # Read the raw body, whatever the headers say about it: the signature covers
    # only the bytes. get_json() would refuse every attempt to deliver an event
    # with another Content-Type, or with none.
    body = request.get_data()
    try:
        line = describe(parse(body))
    except (ValueError, RecursionError, zlib.error):
        # The next attempt would bring the same bytes, so asking for one is
        # useless. Log the bytes for a person to look at.
        key = request.headers.get("Idempotency-Key")
        line = f"unreadable {key} {base64.b64encode(body).decode()}"

    # Process the event here. An exception makes the answer a 500, so InstantAPI
    # sends the event again and Caddy forwards it again. Only a 2xx means
    # delivered.
    print(line, flush=True)
    return jsonify(received=True)


def parse(body):
    """Read an event as leniently as possible: with a byte order mark, with bytes
    that are not UTF-8, and compressed."""
    if body.startswith(b"\x1f\x8b"):
        gunzip = zlib.decompressobj(zlib.MAX_WBITS | 16)
        body = gunzip.decompress(body, MAX_BODY)
        if not gunzip.eof:
            raise ValueError("not whole, or too large")
    event = json.loads(body.decode("utf-8-sig", errors="replace"), parse_int=parse_int)
    if not isinstance(event, dict):
        raise ValueError("not an object")
    return event


def parse_int(digits):
    # int() refuses more than 4300 digits.
    return int(digits) if len(digits) < 1000 else digits


def describe(event):
    """Return a line about an event."""
    event_type, task_id = event.get("event_type"), show(event.get("task_id"))
    if event_type == "task.completed":
        about = {"result": event.get("result"), "usage": event.get("usage")}
        return f"task.completed {task_id} {json.dumps(about)}"
    if event_type == "task.failed":
        about = {"status": event.get("status"), "result": event.get("result")}
        return f"task.failed {task_id} {json.dumps(about)}"
    return f"ignored {show(event_type)} {task_id}"


def show(value):
    """Write a field, which may be missing or of any type.

    json.dumps writes all of them in ASCII and without line breaks; print fails
    for half of an emoji (a lone surrogate), which JSON can hold.
    """
    plain = isinstance(value, str) and re.fullmatch(r"[\w.:-]+", value, re.ASCII)
    return value if plain else json.dumps(value)


if __name__ == "__main__":
    # Listen on 127.0.0.1, so that nobody can bypass Caddy. This is Flask's
    # development server; gunicorn and others can serve app:app as it is.
    app.run(host="127.0.0.1", port=int(os.environ.get("PORT", "5000")))
