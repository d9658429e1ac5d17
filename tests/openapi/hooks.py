"""What schemathesis is told beside the document: how a valid request is made where JSON Schema has no
words for what makes it valid, how lines are written, and that answers have no member that isn't documented.

A request that is meant to be wrong stays as it is.
"""

import datetime
import gzip
import json
import os
import re

import schemathesis

LINES = "application/x-ndjson"
# Log ids of the experiment `demo`, in their order.
LOG_IDS = os.environ["TRIALOG_LOG_IDS"].split()
# The key that all requests are made with. Without it there would be only 401.
OWN_KEY_ID = os.environ["TRIALOG_KEY_ID"]
VARIANT_KEY_BYTES_MAX = 128
# In a header these are no HTTP (RFC 9110, 5.5): the parser refuses them before there is a request to answer.
CONTROLS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


@schemathesis.serializer(LINES)
def write_lines(context, entries):
    """What isn't a list is wrong on purpose, and must not become a good line."""
    if not isinstance(entries, list):
        return json.dumps([entries]).encode()
    return "".join(json.dumps(entry) + "\n" for entry in entries).encode()


@schemathesis.deserializer(LINES)
def read_lines(context, response):
    return response.content.decode()


@schemathesis.hook
def before_load_schema(context, raw_schema):
    """Lines are made as lists of entries. Members that aren't documented are errors, unless the document
    says that there may be others."""
    batch = raw_schema["paths"]["/experiment/{slug}/logs"]["post"]["requestBody"]["content"]
    lists = batch["application/json"]["schema"]["anyOf"][0]
    batch[LINES] = {"schema": lists, "example": batch["application/json"]["example"]}
    responses = [raw_schema["components"]["responses"]]
    responses += [operation["responses"] for item in raw_schema["paths"].values() for operation in item.values() if "responses" in operation]
    for response in responses:
        close(response)
    for schema in raw_schema["components"]["schemas"].values():
        close(schema)


def close(node):
    if isinstance(node, list):
        for value in node:
            close(value)
    if isinstance(node, dict):
        if isinstance(node.get("properties"), dict):
            node.setdefault("additionalProperties", False)
        for name, value in node.items():
            if name not in ("example", "examples"):
                close(value)


@schemathesis.hook
def before_call(context, case, kwargs):
    operation = case.operation.definition.raw["operationId"]
    for name, value in list((case.headers or {}).items()):
        if isinstance(value, str) and CONTROLS.search(value):
            case.headers[name] = CONTROLS.sub("", value)
    # What all others need stays.
    if operation in ("defineExperiment", "deleteExperiment") and (case.path_parameters or {}).get("slug") == "demo":
        case.path_parameters["slug"] = "scratch"
    if operation == "revokeKey" and (case.path_parameters or {}).get("id") == OWN_KEY_ID:
        case.path_parameters["id"] = "another"
    if case.meta is None or case.meta.generation.mode.is_negative:
        return
    repair = REPAIRS.get(operation)
    if repair:
        repair(case)
    code(case, kwargs)


def code(case, kwargs):
    """A body is as its `content-encoding` says."""
    headers = case.headers or {}
    if headers.get("content-encoding", "identity") == "identity":
        return
    if case.media_type == "application/json":
        headers["content-encoding"] = "gzip"
        headers["content-type"] = "application/json"
        kwargs["data"] = gzip.compress(json.dumps(case.body).encode())
    else:
        headers["content-encoding"] = "identity"


def entry(case):
    if isinstance(case.body, dict):
        case.body["variantKey"] = fitting(case.body["variantKey"])


def batch(case):
    if isinstance(case.body, list):
        for one in case.body:
            one["variantKey"] = fitting(one["variantKey"])
    else:
        entry(case)
    # One of the two headers at most, and as many keys as entries.
    headers = case.headers or {}
    if headers.pop("idempotency-keys", None) is not None and isinstance(case.body, list):
        headers.pop("idempotency-key", None)
        headers["idempotency-keys"] = " ".join(f"key-{n}" for n in range(len(case.body)))


def fitting(text):
    """The limit is one of bytes."""
    while len(text.encode()) > VARIANT_KEY_BYTES_MAX:
        text = text[:-1]
    return text


def selection(case):
    """Bounds are of entries that there are, and leave something between them."""
    name_what_is_there(case, {"after": LOG_IDS[0], "before": LOG_IDS[-1]})
    if "since" in case.query and "until" in case.query:
        del case.query["until"]


def report(case):
    name_what_is_there(case, {"control": "A", "metric": "latency_ms", "by": "context.environment"})


def name_what_is_there(case, known):
    case.query = case.query or {}
    for name in known.keys() & case.query.keys():
        if case.path_parameters["slug"] == "demo":
            case.query[name] = known[name]
        else:
            del case.query[name]


def definition(case):
    variants = {}
    for variant in case.body.get("variants", []):
        variant = {"key": variant} if isinstance(variant, str) else variant
        variant["key"] = fitting(variant["key"])
        variants.setdefault(variant["key"], variant)
    for variant in list(variants.values())[1:]:
        variant.pop("control", None)
    case.body["variants"] = list(variants.values())
    if not variants:
        case.body["openVariants"] = True


def new_key(case):
    case.body["name"] = fitting(case.body["name"])
    end = case.body.get("expiresAt")
    if end and end < str(datetime.date.today() + datetime.timedelta(days=2)):
        case.body["expiresAt"] = "9" + end[1:]


def confirmed(case):
    case.query["confirm"] = case.path_parameters["slug"]


REPAIRS = {
    "appendEntry": entry,
    "appendBatch": batch,
    "queryLogs": selection,
    "tailExperiment": selection,
    "getReport": report,
    "defineExperiment": definition,
    "deleteExperiment": confirmed,
    "createKey": new_key,
}
