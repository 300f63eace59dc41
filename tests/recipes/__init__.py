"""The recipes of the README, each run on a real server as it stands there."""

import re
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"


def pythonBlocks():
    """Return the Python blocks of the README as lists, by the heading they stand under."""
    blocks = {}
    heading = None
    text = README.read_text(encoding="utf-8")
    for title, language, block in re.findall(
            r"^#+ ([^\n]+)$|^```(\w+)\n(.*?)^```$", text, re.M | re.S):
        heading = title or heading
        if language == "python":
            blocks.setdefault(heading, []).append(block)
    return blocks
