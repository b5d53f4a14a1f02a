"""Answers requests on standard input until standard input is closed.

A request is one line of JSON, followed by a body of `body_length` raw bytes. An answer has the same form. If a request
fails, its answer has the field `error`.

usage: conversation.py SCRIPT

SCRIPT is a Python file with the dictionary OPERATIONS. The field `op` of a request selects an operation: a function that
takes a request and its body, and returns an answer and its body.
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
            # Nobody listens or nobody answers. The test wants to know this; it is not an error of this program.
            answer, body = {"error": f"{type(error).__name__}: {error}"}, b""
        except Exception:
            answer, body = {"error": traceback.format_exc()}, b""
        answers.write(json.dumps({**answer, "body_length": len(body)}).encode() + b"\n" + body)
        answers.flush()


main(sys.argv[1])
