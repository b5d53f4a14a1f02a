"""Microsoft's own package for Azure Blob Storage, as a client of Azurite and as the other opinion on signatures.

Speaks as helper.py does: a request is one line of JSON, followed by as many raw bytes as its `body_length` says; an
answer has the same form. `op` names what is asked for: see the functions at the end.
"""

import json
import sys
import traceback

from azure.core.exceptions import ResourceNotFoundError
from azure.storage.blob import (
    AccessPolicy,
    BlobServiceClient,
    UserDelegationKey,
    generate_blob_sas,
)
from azure.storage.blob._shared.constants import X_MS_VERSION


def container(request):
    service = BlobServiceClient(
        f"{request['endpoint']}/{request['account']}",
        credential={"account_name": request["account"], "account_key": request["key"]},
        connection_verify=request.get("ca") or True,
        retry_total=0,
    )
    return service.get_container_client(request["container"])


def create(request, _body):
    container(request).create_container()
    return {}, b""


def put(request, body):
    container(request).upload_blob(request["blob"], body, overwrite=True)
    return {}, b""


def get(request, _body):
    try:
        return {"found": True}, container(request).download_blob(request["blob"]).readall()
    except ResourceNotFoundError:
        return {"found": False}, b""


def names(request, _body):
    """The names of all blobs that begin so."""
    return {"names": list(container(request).list_blob_names(name_starts_with=request["prefix"]))}, b""


def policies(request, _body):
    """Sets the container's stored access policies, each with the permissions that are given (none: null)."""
    wanted = {name: AccessPolicy(permission=permission) for name, permission in request["policies"].items()}
    container(request).set_container_access_policy(wanted)
    return {}, b""


def sas(request, _body):
    """The query of a signed URL, for the same inputs as Valet's."""
    delegation = None
    if request.get("delegation"):
        delegation = UserDelegationKey()
        for name, value in request["delegation"].items():
            setattr(delegation, name, value)
    token = generate_blob_sas(
        request["account"],
        request["container"],
        request["blob"],
        account_key=request.get("key"),
        user_delegation_key=delegation,
        **request["options"],
    )
    return {"token": token, "version": X_MS_VERSION}, b""


OPERATIONS = {"create": create, "put": put, "get": get, "names": names, "policies": policies, "sas": sas}


def main():
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    while line := requests.readline():
        request = json.loads(line)
        body = requests.read(request.get("body_length", 0))
        try:
            answer, body = OPERATIONS[request["op"]](request, body)
        except Exception:
            answer, body = {"error": traceback.format_exc()}, b""
        answers.write(json.dumps({**answer, "body_length": len(body)}).encode() + b"\n" + body)
        answers.flush()


main()
