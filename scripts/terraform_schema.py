"""Writes what Terraform's provider for Google knows of the resources in deploy/terraform.

    npm pack @cdktf/provider-google@16.12.1 && tar xzf cdktf-provider-google-*.tgz
    python scripts/terraform_schema.py package > tests/documents/google_provider.json

That npm package is made from the provider's own schema. Of each type that deploy/terraform has, the
output holds the arguments, blocks as further objects, and what can be read of it (`#`). A `!` marks
what is required.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TypeAlias

TERRAFORM = Path(__file__).parents[1] / "deploy" / "terraform"
Block: TypeAlias = "dict[str, Block | None]"
_BLOCK = re.compile(r"^(resource|data) \"(google_\w+)\"", re.MULTILINE)
_INTERFACE = re.compile(r"^export interface (\w+).*?\{\n(.*?)^\}", re.MULTILINE | re.DOTALL)
_ARGUMENT = re.compile(r"/\d[\d.]+/docs/\S+#(\w+) \w+#.*?readonly \w+(\??): (\w+|\{)", re.DOTALL)
_READABLE = re.compile(r"^    get (\w+)\(\)", re.MULTILINE)


def _block(interfaces: dict[str, str], name: str) -> Block:
    """The arguments of one interface."""
    return {
        argument + ("" if optional else "!"): (
            _block(interfaces, kind) if kind in interfaces else None
        )
        for argument, optional, kind in _ARGUMENT.findall(interfaces[name])
    }


def _snake(name: str) -> str:
    return re.sub(r"([A-Z])", lambda found: f"_{found[1].lower()}", name)


def main() -> None:
    """Reads the npm package and prints JSON."""
    package = Path(sys.argv[1])
    about = json.loads((package / "package.json").read_text())["cdktf"]["provider"]
    types: dict[str, Block] = {}
    used = {found for path in TERRAFORM.glob("*.tf") for found in _BLOCK.findall(path.read_text())}
    for kind, name in sorted(used):
        folder = name.removeprefix("google_").replace("_", "-")
        folder = folder if kind == "resource" else f"data-google-{folder}"
        text = (package / "lib" / folder / "index.d.ts").read_text()
        interfaces = dict(_INTERFACE.findall(text))
        config = next(each for each in interfaces if each.endswith("Config"))
        known = _block(interfaces, config)
        main_class = text.rpartition("export declare class ")[2]
        readable = {_snake(each) for each in _READABLE.findall(main_class)}
        known["#"] = {each: None for each in sorted(readable) if not each.endswith("_input")}
        types[f"{kind} {name}"] = known
    json.dump({"version": about["version"], "types": types}, sys.stdout, indent=1, sort_keys=True)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
