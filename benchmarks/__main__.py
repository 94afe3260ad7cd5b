"""``python -m benchmarks``: everything that is in the committed table, in one run.

The overhead for each job (``overhead.py``, whose options it takes), for each call (``calls.py``), and what the ledger
explains (``ledger.py``).
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from benchmarks import ledger, overhead

HERE = Path(__file__).parent


def main() -> None:
    parser = overhead.parser()
    parser.description = __doc__
    parser.set_defaults(output=HERE / "overhead.md")
    options = parser.parse_args()
    per_job = overhead.report(options)
    quick = ["--quick"] if options.quick else []
    per_call = subprocess.run(
        [sys.executable, str(HERE / "calls.py"), *quick], check=True, stdout=subprocess.PIPE, text=True
    )
    text = "\n".join([per_job, _below(per_call.stdout), _below(ledger.report(quick=options.quick))])
    print(text)
    options.output.write_text(text, encoding="utf-8")


def _below(text: str) -> str:
    """A report as a chapter of another: each of its headings one level down."""
    return re.sub(r"^(#+ )", r"#\1", text, flags=re.MULTILINE)


if __name__ == "__main__":
    main()
