"""Runs the examples in documentation strings, and the blocks of Python in the README."""

import doctest
import importlib
import os
import re
import sys
import tempfile
from pathlib import Path

import brooklet

MODULES = ["brooklet", "brooklet._aio"]


def main(root: Path) -> int:
    failed = tried = 0
    finder = doctest.DocTestFinder(exclude_empty=True)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    things = [(importlib.import_module(name), name) for name in MODULES]
    # Functions of the extension are not found by the finder, which looks for Python's own.
    own = importlib.import_module("brooklet._brooklet")
    seen = set()
    for thing, name in things:
        for test in finder.find(thing, name, module=False, globs={"brooklet": brooklet}):
            seen.add(test.name)
            runner.run(test)
    for name in dir(own):
        thing = getattr(own, name)
        texts = {name: getattr(thing, "__doc__", None)}
        if isinstance(thing, type):
            texts |= {f"{name}.{part}": getattr(getattr(thing, part), "__doc__", None) for part in vars(thing)}
        for place, text in texts.items():
            if isinstance(text, str) and ">>>" in text and not any(test.endswith(place) for test in seen):
                test = doctest.DocTestParser().get_doctest(text, {"brooklet": brooklet}, place, None, None)
                runner.run(test)
    result = runner.summarize()
    failed, tried = result.failed, result.attempted
    for file in ["engine/python/README.md"]:
        blocks = re.findall(r"^```python\n(.*?)^```", (root / file).read_text(encoding="utf-8"), re.S | re.M)
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            scope: dict[str, object] = {}
            for block in blocks:
                tried += 1
                if "# not run" not in block:
                    exec(compile(block, file, "exec"), scope)
            os.chdir("/")
    print(f"{tried} examples, {failed} failed")
    return 1 if failed or tried < 10 else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()))
