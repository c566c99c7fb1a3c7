"""A key names one request: the few that are made up here would name several."""

import re
import uuid

import schemathesis


@schemathesis.hook
def before_call(context, case, kwargs):
    headers = case.headers or {}
    if re.fullmatch(r"[!-~]{1,160}", headers.get("Idempotency-Key") or ""):
        headers["Idempotency-Key"] += uuid.uuid4().hex
