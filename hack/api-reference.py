#!/usr/bin/env python3
"""Generates the reference of the custom resources: reads CRDs from standard input, writes Markdown to standard output.

    valet crds | hack/api-reference.py > docs/reference/api.md

The script needs only Python's standard library.
"""

import json
import re
import sys


# --- reading YAML -----------------------------------------------------------------------------------------------------


class Yaml:
    """Reads the subset of YAML that `valet crds` writes: block mappings and sequences, scalars on one line, and literal blocks.
    Any other YAML is an error."""

    def __init__(self, text):
        self.lines = text.split("\n")
        self.at = 0

    def documents(self):
        starts = [n for n, line in enumerate(self.lines) if line == "---"] + [len(self.lines)]
        for start, end in zip(starts, starts[1:]):
            part = Yaml("\n".join(self.lines[start + 1 : end]))
            part.skip()
            value = part.value(0)
            part.skip()
            if part.at != len(part.lines):
                part.fail("unexpected indentation or syntax")
            yield value

    def fail(self, why):
        sys.exit(f"api-reference: line {self.at + 1} of a document: {why}: {self.lines[self.at]!r}")

    def skip(self):
        while self.at < len(self.lines) and re.match(r"\s*(#.*)?$", self.lines[self.at]):
            self.at += 1

    def indent(self):
        return len(self.lines[self.at]) - len(self.lines[self.at].lstrip(" "))

    def more(self, indent):
        self.skip()
        return self.at < len(self.lines) and self.indent() == indent

    def value(self, indent):
        if self.lines[self.at].lstrip(" ").startswith("- "):
            return self.sequence(indent)
        return self.mapping(indent)

    def sequence(self, indent):
        items = []
        while self.more(indent) and self.lines[self.at].startswith("- ", indent):
            line = self.lines[self.at]
            rest = line[indent + 2 :]
            if re.match(r"[A-Za-z][\w-]*:( |$)", rest):
                # A mapping that begins on the line of the dash.
                self.lines[self.at] = " " * (indent + 2) + rest
                items.append(self.mapping(indent + 2))
            else:
                items.append(self.scalar(rest, indent))
        return items

    def mapping(self, indent):
        result = {}
        while self.more(indent):
            found = re.match(r" *([A-Za-z$][\w.$-]*):(?: (.*))?$", self.lines[self.at])
            if not found:
                if self.lines[self.at].startswith("- ", indent):
                    break
                self.fail("expected 'key: value'")
            key, rest = found.groups()
            if key in result:
                self.fail("duplicate key")
            if rest:
                result[key] = self.scalar(rest, indent)
                continue
            self.at += 1
            self.skip()
            # A sequence may have the same indentation as its key.
            deeper = self.indent()
            if deeper < indent or (deeper == indent and not self.lines[self.at].startswith("- ", indent)):
                self.fail("the key has no value")
            result[key] = self.value(deeper)
        return result

    def scalar(self, text, indent):
        if text in ("|-", "|"):
            return self.literal(indent, keep_end=text == "|")
        self.at += 1
        if text in ("{}", "[]", "true", "false") or re.fullmatch(r"-?\d+(\.\d+)?", text):
            return json.loads(text)
        if text == "null":
            return None
        if text.startswith("'"):
            if not re.fullmatch(r"'([^']|'')*'", text):
                self.at -= 1
                self.fail("a quoted string over several lines is not supported")
            return text[1:-1].replace("''", "'")
        if text.startswith('"'):
            return json.loads(text)
        if text[0] in "{[&*!|>%@`" or ": " in text or " #" in text:
            self.at -= 1
            self.fail("only plain scalars are supported here")
        return text

    def literal(self, indent, keep_end):
        self.at += 1
        deeper, lines = self.indent(), []
        if deeper <= indent:
            self.fail("the literal block is empty")
        while self.at < len(self.lines) and (self.indent() >= deeper or not self.lines[self.at].strip()):
            lines.append(self.lines[self.at][deeper:])
            self.at += 1
        return "\n".join(lines).rstrip("\n") + ("\n" if keep_end else "")


# --- writing Markdown -------------------------------------------------------------------------------------------------


def escape(text):
    """Escapes the characters that have a meaning in Markdown."""
    return re.sub(r"([*_<>\\`|])", r"\\\1", text)


def described(schema):
    """Returns the description as Markdown, with its example as code."""
    text, _, example = schema.get("description", "").partition("\nExample: ")
    if not example:
        found = re.search(r" Example: (\S.*)$", text)
        if found:
            text, example = text[: found.start()], found.group(1)
    if not example:
        return escape(text)
    # In "words: command" only the command is code.
    words, colon, command = example.rpartition(": ")
    return f"{escape(text)} Example: {escape(words)}{colon}`{command}`"


def is_condition_list(schema):
    return "lastTransitionTime" in schema.get("items", {}).get("properties", {})


def is_label_selector(schema):
    return set(schema.get("properties", {})) == {"matchLabels", "matchExpressions"}


def type_of(schema):
    if is_condition_list(schema):
        return "list of Kubernetes conditions"
    if is_label_selector(schema):
        return "Kubernetes label selector"
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"] if value is not None)
    if schema.get("x-kubernetes-int-or-string"):
        return "integer or string"
    if schema.get("format") == "date-time":
        return "RFC 3339 time"
    kind = schema.get("type", "any")
    if kind == "array":
        return f"list of {type_of(schema['items'])}"
    if kind == "object" and "additionalProperties" in schema:
        return f"map of {type_of(schema['additionalProperties'])}"
    return kind


def number(value):
    return str(int(value)) if value == int(value) else str(value)


def limits(schema):
    """Returns the default and the limits in the schema as short phrases."""
    said = []
    if "default" in schema:
        said.append(f"default `{json.dumps(schema['default']).strip(chr(34))}`")
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        said.append(f"{number(low)} to {number(high)}")
    elif low is not None:
        said.append(f"at least {number(low)}")
    for least, most, what in [("minLength", "maxLength", "characters"), ("minItems", "maxItems", "items"),
                              ("minProperties", "maxProperties", "entries")]:
        low, high = schema.get(least), schema.get(most)
        if low is not None and high is not None:
            said.append(f"{low} to {high} {what}")
        elif high is not None:
            said.append(f"at most {high} {what}")
    return said


def field(kind, path, schema, required):
    anchor = re.sub(r"[^a-z0-9]+", "-", f"{kind}-{path}".lower()).strip("-")
    facts = [type_of(schema)] + (["required"] if required else []) + limits(schema)
    yield f'<a id="{anchor}"></a>**`{path}`** ({", ".join(facts)})\\'
    yield described(schema) or "(no description)"
    rules = schema.get("x-kubernetes-validations", [])
    if rules:
        yield ""
    for rule in rules:
        when = " *(on update)*" if "oldSelf" in rule["rule"] else ""
        yield f"- Refused{when}: {escape(rule['message'])}"
    yield ""
    if is_condition_list(schema) or is_label_selector(schema):
        return
    inner, suffix = (schema["items"], "[]") if schema.get("type") == "array" else (schema, "")
    required = inner.get("required", [])
    # Required fields first, then by name.
    for name in sorted(inner.get("properties", {}), key=lambda n: (n not in required, n)):
        yield from field(kind, f"{path}{suffix}.{name}", inner["properties"][name], name in required)


def kind_of(crd):
    spec, names = crd["spec"], crd["spec"]["names"]
    [version] = spec["versions"]
    schema = version["schema"]["openAPIV3Schema"]
    kind = names["kind"]
    yield f"## {kind}"
    yield ""
    yield escape(schema["description"])
    yield ""
    scope = "namespaced" if spec["scope"] == "Namespaced" else "cluster-wide"
    yield f"`apiVersion: {spec['group']}/{version['name']}`, `kind: {kind}`, {scope}; " \
          f"kubectl knows it as `{names['plural']}`, `{names['shortNames'][0]}` and, with the others, as `{names['categories'][0]}`."
    yield ""
    plain = [c["name"] for c in version["additionalPrinterColumns"] if not c.get("priority")]
    wide = [c["name"] for c in version["additionalPrinterColumns"] if c.get("priority")]
    yield f"Columns of `kubectl get`: {', '.join(plain)}; with `-o wide` also {', '.join(wide)}."
    yield ""
    for part in ("spec", "status"):
        yield f"### {kind} {part}"
        yield ""
        yield from field(kind, part, schema["properties"][part], part in schema.get("required", []))


def main():
    crds = list(Yaml(sys.stdin.read()).documents())
    if not crds:
        sys.exit("api-reference: no CRDs on standard input; use: valet crds | hack/api-reference.py")
    lines = [
        "<!-- Generated from the CRDs by hack/api-reference.py; do not edit. -->",
        "# API reference",
        "",
        "This page lists every field of every kind, with the limits that the apiserver checks and the messages of its validation rules.",
        "`kubectl explain` shows the same texts, for example `kubectl explain ug.spec.constraints`.",
        "",
    ]
    lines += [f"- [{crd['spec']['names']['kind']}](#{crd['spec']['names']['kind'].lower()})" for crd in crds]
    lines.append("")
    for crd in crds:
        lines += kind_of(crd)
    sys.stdout.write("\n".join(lines).rstrip("\n") + "\n")


if __name__ == "__main__":
    main()
