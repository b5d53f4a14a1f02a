"""An S3 client that is none of Valet's: botocore, with nothing but what its environment and the files there say.

Takes a JSON list of [operation, parameters] on standard input, and prints for each what came of it: the answer without its
metadata, or the error's code.
"""

import json
import sys

import botocore.config
import botocore.exceptions
import botocore.session

session = botocore.session.Session()
client = session.create_client("s3", config=botocore.config.Config(retries={"max_attempts": 1}))
results = []
for operation, parameters in json.load(sys.stdin):
    try:
        answer = getattr(client, operation)(**parameters)
        if "Body" in answer:
            answer["Body"] = answer["Body"].read().decode("latin-1")
        answer.pop("ResponseMetadata", None)
        results.append({"ok": json.loads(json.dumps(answer, default=str))})
    except botocore.exceptions.ClientError as error:
        results.append({"error": error.response["Error"]["Code"]})
    except RuntimeError as error:
        results.append({"error": str(error)})
json.dump(results, sys.stdout)
