"""An S3 client and a checker of signed URLs that share no code with Valet.

conversation.py runs the operations that are listed at the end of this file.

botocore computes the signatures. This file sends the HTTP requests itself, because HTTP libraries (also that of botocore)
normalize paths, and the tests check that paths arrive unchanged.
"""

import base64
import calendar
import datetime
import hmac
import http.client
import json
import urllib.parse
from xml.etree import ElementTree

from botocore.auth import SIGV4_TIMESTAMP, S3SigV4Auth, S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

TIMEOUT_SECONDS = 30


# --- S3 as the store's root ---------------------------------------------------------------------------------------


def s3(request, body):
    """One request to S3, signed in its headers."""
    path = "/" + "/".join(quote(part, safe="/~") for part in (request.get("bucket"), request.get("key")) if part)
    query = "&".join(quote(name) + "=" + quote(value) for name, value in request.get("query", []))
    signed = AWSRequest(
        method=request["method"],
        url=request["endpoint"] + path + ("?" + query if query else ""),
        headers=dict(request.get("headers", [])),
        data=body,
    )
    credentials = Credentials(request["access_key"], request["secret_key"])
    S3SigV4Auth(credentials, "s3", request["region"]).add_auth(signed)
    status, headers, answer = send(request["method"], signed.url, signed.headers.items(), body)
    return {"status": status, "headers": headers}, answer


def versions(request, _body):
    """Every version of every object whose key starts with `prefix`, newest first per key."""
    found, markers = [], []
    while True:
        query = [["versions", ""], ["prefix", request["prefix"]], ["encoding-type", "url"], *markers]
        answer, body = s3({**request, "method": "GET", "query": query}, b"")
        if answer["status"] != 200:
            return answer, body
        listing = ElementTree.fromstring(body)
        text = lambda element, name: element.findtext("{*}" + name) or ""
        for element in listing:
            kind = element.tag.rpartition("}")[2]
            if kind in ("Version", "DeleteMarker"):
                found.append(
                    {
                        "key": urllib.parse.unquote_plus(text(element, "Key")),
                        "version": text(element, "VersionId"),
                        "size": int(text(element, "Size") or 0),
                        "e_tag": text(element, "ETag"),
                        "deleted": kind == "DeleteMarker",
                    }
                )
        if text(listing, "IsTruncated") != "true":
            return {"status": 200, "headers": [], "versions": found}, b""
        markers = [
            ["key-marker", urllib.parse.unquote_plus(text(listing, "NextKeyMarker"))],
            ["version-id-marker", text(listing, "NextVersionIdMarker")],
        ]


def send(method, url, headers, body):
    """Sends exactly these bytes, with no header of its own but Host and Content-Length."""
    parts = urllib.parse.urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.netloc, timeout=TIMEOUT_SECONDS)
    try:
        connection.putrequest(method, parts.path + ("?" + parts.query if parts.query else ""), skip_accept_encoding=True)
        for name, value in headers:
            if name.lower() not in ("host", "content-length"):
                connection.putheader(name, value)
        if body or method in ("PUT", "POST"):
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body or None)
        response = connection.getresponse()
        return response.status, response.getheaders(), response.read()
    finally:
        connection.close()


def quote(text, safe="~"):
    return urllib.parse.quote(text, safe=safe)


# --- signed URLs --------------------------------------------------------------------------------------------------


class Refused(Exception):
    """Why a URL is not valid."""


def verify(request, _body):
    return {"verdicts": [verdict(check) for check in request["checks"]]}, b""


def verdict(check):
    """Whether a server would accept the URL, without a check of the time, and the contents of the URL."""
    said = {}
    try:
        examine(check, said)
        return {**said, "valid": True, "why": ""}
    except Refused as refusal:
        return {**said, "valid": False, "why": str(refusal)}


def examine(check, said):
    parts = urllib.parse.urlsplit(check["url"])
    said["scheme"], said["host"] = parts.scheme, parts.netloc
    if parts.fragment or parts.username or parts.scheme not in ("http", "https") or not parts.netloc:
        raise Refused("it has a fragment or a user, or is no http URL")
    if not check["url"].isascii() or any(c <= " " or c == "\x7f" for c in check["url"]):
        raise Refused("it has characters that no URL has")
    path = percent_decode(parts.path)
    said["path_hex"] = path.hex()

    # Servers decode names and values and encode them again in one way, as botocore.auth's tests and the AWS
    # documentation do. The signature covers the encoded form, so this code does the same.
    query, plain = [], {}
    for pair in parts.query.split("&"):
        name, _, value = pair.partition("=")
        if "+" in pair:
            raise Refused("a '+' in the query, which some servers read as a space")
        name, value = percent_decode(name).decode(), percent_decode(value)
        if name in plain:
            raise Refused(f"the query has {name} twice")
        plain[name] = value.decode()
        if name != "X-Amz-Signature":
            query.append(quote(name) + "=" + quote(value))
    said["query"] = sorted([name, value] for name, value in plain.items() if not name.startswith("X-Amz-"))
    said["canonical"] = parts.path == quote(path, safe="/~") and sorted(query) == sorted(
        pair if "=" in pair else pair + "="
        for pair in parts.query.split("&")
        if not pair.startswith("X-Amz-Signature=")
    )

    for name in ("Algorithm", "Credential", "Date", "Expires", "SignedHeaders", "Signature"):
        if f"X-Amz-{name}" not in plain:
            raise Refused(f"it has no X-Amz-{name}")
    date, expires = plain["X-Amz-Date"], plain["X-Amz-Expires"]
    try:
        issued = calendar.timegm(datetime.datetime.strptime(date, SIGV4_TIMESTAMP).timetuple())
    except ValueError:
        raise Refused(f"X-Amz-Date is {date}") from None
    if not expires.isdecimal() or not 1 <= int(expires) <= 604800:
        raise Refused(f"X-Amz-Expires is {expires}")
    signed_headers = plain["X-Amz-SignedHeaders"].split(";")
    said["issued_at"], said["expires_at"] = issued, issued + int(expires)
    said["signed_headers"] = signed_headers
    access_key, scope = (plain["X-Amz-Credential"].split("/", 1) + [""])[:2]
    said["access_key"] = access_key

    if plain["X-Amz-Algorithm"] != "AWS4-HMAC-SHA256":
        raise Refused(f"X-Amz-Algorithm is {plain['X-Amz-Algorithm']}")
    if access_key != check["access_key"]:
        raise Refused(f"it is signed by {access_key}")
    if scope != f"{date[:8]}/{check['region']}/s3/aws4_request":
        raise Refused(f"its scope is {scope}")
    if plain.get("X-Amz-Security-Token") != check.get("session_token"):
        raise Refused("X-Amz-Security-Token is not that of the session")
    if "host" not in signed_headers:
        raise Refused("the host is not signed")
    headers = {}
    for name, value in check["headers"]:
        if name.lower() in headers:
            raise Refused(f"the header {name} is sent twice")
        headers[name.lower()] = value
    said["unsigned_headers"] = sorted(set(headers) - set(signed_headers))
    for name in said["unsigned_headers"]:
        # As at Amazon: a client that may add these headers could change the meaning of the request.
        if name.startswith("x-amz-"):
            raise Refused(f"the header {name} is sent and not signed")
    missing = set(signed_headers) - set(headers) - {"host"}
    if missing:
        raise Refused(f"the header {min(missing)} is signed and not sent")

    request = AWSRequest(
        method=check["method"],
        url=f"{parts.scheme}://{parts.netloc}{quote(path, safe='/~')}?{'&'.join(query)}",
        headers={name: headers[name] for name in signed_headers if name != "host"},
    )
    credentials = Credentials(check["access_key"], check["secret_key"], check.get("session_token"))
    auth = S3SigV4QueryAuth(credentials, "s3", check["region"], expires=int(expires))
    # botocore takes the time from here. It uses the clock only to set this value.
    request.context["timestamp"] = date
    if auth.signed_headers(auth.headers_to_sign(request)) != plain["X-Amz-SignedHeaders"]:
        raise Refused(f"X-Amz-SignedHeaders is {plain['X-Amz-SignedHeaders']}, not sorted or not all signable")
    wanted = auth.signature(auth.string_to_sign(request, auth.canonical_request(request)), request)
    if not hmac.compare_digest(wanted, plain["X-Amz-Signature"]):
        raise Refused("the signature is over something else")


def percent_decode(text):
    """Percent-decodes the text once. Raises Refused if an escape is malformed."""
    for at, character in enumerate(text):
        if character == "%" and not all(c in "0123456789abcdefABCDEF" for c in (text[at + 1 : at + 3] or "-").ljust(2, "-")):
            raise Refused("a '%' that two hexadecimal digits do not follow")
    return urllib.parse.unquote_to_bytes(text)


# --- signed forms -------------------------------------------------------------------------------------------------


def verify_form(request, _body):
    """What a server would make of a POST form, its clock and the file apart, and what the form says."""
    said = {}
    try:
        examine_form(request, said)
        return {**said, "valid": True, "why": ""}, b""
    except Refused as refusal:
        return {**said, "valid": False, "why": str(refusal)}, b""


def examine_form(check, said):
    fields = {}
    for name, value in check["fields"]:
        if name.lower() in fields:
            raise Refused(f"the field {name} is there twice")
        fields[name.lower()] = value
    for name in ("key", "policy", "x-amz-algorithm", "x-amz-credential", "x-amz-date", "x-amz-signature"):
        if name not in fields:
            raise Refused(f"it has no {name}")
    document = json.loads(base64.b64decode(fields["policy"], validate=True).decode())
    if sorted(document) != ["conditions", "expiration"]:
        raise Refused(f"the policy has {sorted(document)}")
    said["policy"] = document
    expiration = datetime.datetime.strptime(document["expiration"], "%Y-%m-%dT%H:%M:%SZ")
    said["expires_at"] = calendar.timegm(expiration.timetuple())

    # Each condition must hold, and each field must have a condition.
    covered = set()
    for condition in document["conditions"]:
        if isinstance(condition, list) and condition[0] == "content-length-range":
            said["range"] = condition[1:]
            continue
        if isinstance(condition, dict):
            ((name, value),) = condition.items()
            operator = "eq"
        else:
            operator, name, value = condition
            name = name.removeprefix("$")
        actual = check["bucket"] if name == "bucket" else fields.get(name.lower())
        matches = {"eq": lambda: actual == value, "starts-with": lambda: (actual or "").startswith(value)}
        if actual is None or not matches[operator]():
            raise Refused(f"the condition on {name} does not hold")
        covered.add(name.lower())
    bare = set(fields) - covered - {"policy", "x-amz-signature"}
    if bare or "bucket" not in covered:
        raise Refused(f"no condition covers {min(bare, default='bucket')}")

    date = fields["x-amz-date"]
    said["issued_at"] = calendar.timegm(datetime.datetime.strptime(date, SIGV4_TIMESTAMP).timetuple())
    if fields["x-amz-algorithm"] != "AWS4-HMAC-SHA256":
        raise Refused(f"x-amz-algorithm is {fields['x-amz-algorithm']}")
    if fields["x-amz-credential"] != f"{check['access_key']}/{date[:8]}/{check['region']}/s3/aws4_request":
        raise Refused(f"x-amz-credential is {fields['x-amz-credential']}")
    if fields.get("x-amz-security-token") != check.get("session_token"):
        raise Refused("x-amz-security-token is not that of the session")

    # botocore signs the same document: the string to sign is the policy as the form contains it.
    credentials = Credentials(check["access_key"], check["secret_key"], check.get("session_token"))
    auth = S3SigV4QueryAuth(credentials, "s3", check["region"])
    request = AWSRequest()
    request.context["timestamp"] = date
    if not hmac.compare_digest(auth.signature(fields["policy"], request), fields["x-amz-signature"]):
        raise Refused("the signature is over something else")


def presign_post(request, _body):
    """A form by botocore's own client, to check the checker with."""
    client = client_of(request)
    form = client.generate_presigned_post(
        request["bucket"], request["key"], request["fields"], request["conditions"], request["expires"]
    )
    return {"url": form["url"], "fields": list(form["fields"].items())}, b""


def presign(request, _body):
    """A URL signed by botocore's own client, to check the checker with."""
    url = client_of(request).generate_presigned_url(request["operation"], request["params"], request["expires"])
    return {"url": url}, b""


def client_of(request):
    import botocore.config
    import botocore.session

    session = botocore.session.Session()
    return session.create_client(
        "s3",
        region_name=request["region"],
        endpoint_url=request["endpoint"],
        aws_access_key_id=request["access_key"],
        aws_secret_access_key=request["secret_key"],
        config=botocore.config.Config(
            signature_version="s3v4",
            s3={"addressing_style": request.get("addressing_style", "path")},
            request_checksum_calculation="when_required",
        ),
    )


OPERATIONS = {
    "s3": s3,
    "versions": versions,
    "verify": verify,
    "presign": presign,
    "verify_form": verify_form,
    "presign_post": presign_post,
}
