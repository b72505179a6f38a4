"""The tutorial's client: it submits a task to InstantAPI and gets a task_id at
once. The webhook gets the result later.

  go run ./examples/caddy instantapi sandbox        (or the real one, with your key)
  export INSTANTAPI_URL=http://127.0.0.1:8090 INSTANTAPI_API_KEY=demo-key
  export INSTANTAPI_WEBHOOK_URL=http://localhost:8080/webhooks/instantapi
  python3 examples/submit/submit.py summarize 'A long text'

Python 3.8 or later, and nothing to install.
"""

import json
import os
import sys
import urllib.error
import urllib.parse
import urllib.request


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """By default urllib sends the key to wherever a redirect leads."""

    def redirect_request(self, *args):
        return None


opener = urllib.request.build_opener(NoRedirect)


def submit_async_task(task, input, options=None):
    request = urllib.request.Request(
        urllib.parse.urljoin(env("INSTANTAPI_URL"), "/api/v1/generate"),
        method="POST",
        headers={
            "Authorization": "Bearer " + env("INSTANTAPI_API_KEY"),
            "Content-Type": "application/json",
        },
        data=json.dumps(
            {
                "task": task,
                "input": input,
                "options": options or {},
                "webhook_url": env("INSTANTAPI_WEBHOOK_URL"),
            }
        ).encode(),
    )
    try:
        with opener.open(request, timeout=10) as response:
            answer = json.load(response)
    except urllib.error.HTTPError as err:
        answer = err.read().decode(errors="replace")
        raise RuntimeError(f"InstantAPI answered {err.code} {answer}") from err
    if not isinstance(answer, dict) or "task_id" not in answer:
        raise RuntimeError("the answer has no task_id: is INSTANTAPI_URL right?")
    return answer["task_id"]


def env(name):
    value = os.environ.get(name)
    if not value:
        raise RuntimeError(f"set {name}, see the top of submit.py")
    if value.split() != [value]:
        # For a line break in a header, urllib raises an error that contains the
        # key.
        raise RuntimeError(f"there is white space in {name}")
    return value


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python3 submit.py <task> <input>")
    try:
        print(submit_async_task(sys.argv[1], sys.argv[2]))
    except (RuntimeError, OSError, ValueError) as err:
        sys.exit(str(err))
