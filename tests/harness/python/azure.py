"""Microsoft's package for Azure Blob Storage: a client for Azurite, and an independent implementation of signatures.

conversation.py runs the operations that are listed at the end of this file.
"""

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
    """The names of all blobs that begin with the prefix."""
    return {"names": list(container(request).list_blob_names(name_starts_with=request["prefix"]))}, b""


def policies(request, _body):
    """Sets the container's stored access policies, each with its permissions; null means no permissions."""
    wanted = {name: AccessPolicy(permission=permission) for name, permission in request["policies"].items()}
    container(request).set_container_access_policy(wanted)
    return {}, b""


def sas(request, _body):
    """The query of a signed URL, for the same inputs as in Valet."""
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
