"""The table of all configuration keys in config/README.md, written from the schema (`make docs`)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from radloom.config import schema

PAGE = Path(__file__).resolve().parents[3] / "config" / "README.md"
BEGIN, END = "<!-- keys: written by `make docs` -->\n", "<!-- end of keys -->\n"


def config_table() -> str:
    """Return the Markdown tables of all keys: name, type or choices, default, meaning; one table a section."""
    properties = schema()["properties"]
    parts = [_table({k: v for k, v in properties.items() if "properties" not in v})]
    for name, rule in properties.items():
        if "properties" in rule:
            parts.append(f"### `{name}`\n\n{rule['description']}\n\n{_table(rule['properties'])}")
    return BEGIN + "\n" + "\n".join(parts) + "\n" + END


def _table(rules: dict[str, Any]) -> str:
    lines = ["| key | value | default | meaning |", "|---|---|---|---|"]
    for key, rule in rules.items():
        default = f"`{json.dumps(rule['default'])}`" if "default" in rule else "required"
        meaning = " ".join(rule["description"].split()).replace("|", "\\|")
        lines.append(f"| `{key}` | {_kind(rule)} | {default} | {meaning} |")
    return "\n".join(lines) + "\n"


def _kind(rule: dict[str, Any]) -> str:
    if "enum" in rule:
        return ", ".join(f"`{choice}`" for choice in rule["enum"])
    if "const" in rule:
        return f"`{rule['const']}`"
    if "oneOf" in rule and "type" not in rule:
        return " or ".join(_kind(choice) for choice in rule["oneOf"])
    kind = rule["type"]
    if kind == "array":
        return f"list of {_kind(rule['items'])}"
    return " or ".join("nothing" if k == "null" else k for k in (kind if isinstance(kind, list) else [kind]))


def main() -> None:
    text = PAGE.read_text()
    before, rest = text.split(BEGIN)
    PAGE.write_text(before + config_table() + rest.split(END)[1])


if __name__ == "__main__":
    main()
