"""SCFAE's parameter counts, built and by formula, beside the paper's Table 13."""

import torch

from benchmarks.common import finish, parser
from fusecache.train.blocks import BLOCKS
from fusecache.train.config import FusionConfig

PUBLISHED = {"512/512": 24_142_848, "4096/128": 345_942_742, "128/128": 1_513_728}


def main() -> None:
    """Count on the meta device: shapes only, no memory."""
    args = parser(__doc__ or "").parse_args()
    figures: dict[str, int] = {}
    for name, expected in PUBLISHED.items():
        first, second = (int(dim) for dim in name.split("/"))
        with torch.device("meta"):
            block = BLOCKS["scfae"]({"a": first, "b": second}, FusionConfig())
        figures[name] = sum(parameter.numel() for parameter in block.parameters())
        print(
            f"{name:>9}: {figures[name]:,} parameters (expected {expected:,}, {'equal' if figures[name] == expected else 'DIFFERS'})"
        )
    finish(args, figures)


if __name__ == "__main__":
    main()
