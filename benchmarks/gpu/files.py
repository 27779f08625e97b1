"""JSON files that are never half written, however a run ends."""

import json
import pathlib


def write_json(path: pathlib.Path, content) -> None:
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content, indent=1) + "\n")
    part.replace(path)


def read_json(path: pathlib.Path):
    """The content; None if a part did not come so far."""
    return json.loads(path.read_text()) if path.exists() else None
