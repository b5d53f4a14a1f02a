"""Answers questions for as long as standard input is open. A request is one line of JSON, followed by as many raw bytes as its
`body_length` says; an answer has the same form, and `error` in it if there is none.

usage: conversation.py SCRIPT

SCRIPT is a Python file with OPERATIONS, by the word in `op`: functions from a request and its body to an answer and its body.
"""

import importlib.util
import json
import sys
import traceback


def main(script):
    spec = importlib.util.spec_from_file_location("operations", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    while line := requests.readline():
        request = json.loads(line)
        body = requests.read(request.get("body_length", 0))
        try:
            answer, body = module.OPERATIONS[request["op"]](request, body)
        except OSError as error:
            # Nobody listens, or nobody answers: news for the test, not a mistake in here.
            answer, body = {"error": f"{type(error).__name__}: {error}"}, b""
        except Exception:
            answer, body = {"error": traceback.format_exc()}, b""
        answers.write(json.dumps({**answer, "body_length": len(body)}).encode() + b"\n" + body)
        answers.flush()


main(sys.argv[1])
