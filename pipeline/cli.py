"""The command line: few verbs, one ``--set``, and errors that say what to do.

Only argparse is loaded here, so that ``--help`` answers at once; a verb's module, and the libraries that it needs, load
when the verb runs.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

EXIT_CODES = """exit codes: 0 done; 1 a defect of fusecache (please report it); 2 bad input, recipe or usage;
3 a cache is damaged or does not match; 4 the disk refused; 5 too many samples were rejected;
6 an optional package is missing; 130 interrupted (run the same command again to go on)"""


class _Help(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28, width=100)


def _verb(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser],  # pyright: ignore[reportPrivateUsage]
    name: str,
    module: str,
    summary: str,
    example: str,
) -> argparse.ArgumentParser:
    parser = verbs.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=f"example:\n{example}",
        formatter_class=_Help,
    )
    parser.set_defaults(module=module)
    return parser


def _recipe_options(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    parser.add_argument(
        "--recipe",
        default=default,
        required=default is None,
        metavar="NAME|FILE",
        help="a shipped recipe (digits, clips, transformers) or a YAML file",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        dest="overrides",
        help="override one recipe field, such as train.lr=1e-4; may be repeated",
    )


def _json_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(
        prog="fusecache",
        description="Extract features of video, audio, image and text once; cache them; train multimodal fusion offline.",
        epilog=f"example:\n  fusecache demo --out demo\n\n{EXIT_CODES}",
        formatter_class=_Help,
    )
    parser.add_argument("--version", action="store_true", help="print the version and leave")
    parser.add_argument("--traceback", action="store_true", help="show the Python traceback of an error")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB")

    verb = _verb(
        verbs, "demo", "demo", "the whole way on real input: data, features, cache, training, report",
        "  fusecache demo                      # the embedded digits task: nothing to download\n"
        "  fusecache demo --data RECORDINGS    # real recordings (or set FUSECACHE_DATA)",
    )  # fmt: skip
    verb.add_argument("--data", metavar="DIR", help="real recordings to use instead of the embedded task")
    verb.add_argument(
        "-o", "--out", default="demo", metavar="DIR", help="where everything goes (default: demo)"
    )
    verb.add_argument(
        "--seed", type=int, default=0, help="seed of data, initialisation and order (default: 0)"
    )
    _json_option(verb)

    verb = _verb(
        verbs, "data", "data", "build a data set folder with its media manifest",
        "  fusecache data digits --out data/digits\n  fusecache data clips --out data/clips",
    )  # fmt: skip
    verb.add_argument("name", choices=("digits", "recordings", "clips"), help="which data set")
    verb.add_argument("-o", "--out", required=True, metavar="DIR", help="the folder to build")
    verb.add_argument("--data", metavar="DIR", help="recordings: where they are (default: $FUSECACHE_DATA)")
    verb.add_argument("--seed", type=int, default=0, help="seed of every draw (default: 0)")
    _json_option(verb)

    verb = _verb(
        verbs, "extract", "extract", "decode media once, run encoders, write a cache (a killed run goes on where it stopped)",
        "  fusecache extract data/digits/manifest.csv --recipe digits --out caches/digits",
    )  # fmt: skip
    verb.add_argument("manifest", help="media manifest (CSV, JSONL, Parquet) or a folder of media")
    verb.add_argument("-o", "--out", required=True, metavar="CACHE", help="the cache to write")
    _recipe_options(verb)
    _json_option(verb)

    verb = verbs.add_parser(
        "cache", help="look at a cache and check it", description="Look at a cache and check it.", formatter_class=_Help,
        epilog="example:\n  fusecache cache info caches/digits",
    )  # fmt: skip
    cache_verbs = verb.add_subparsers(dest="cache_verb", metavar="VERB", required=True)
    verb = _verb(
        cache_verbs,
        "info",
        "cache",
        "show what a cache holds and what made it",
        "  fusecache cache info caches/digits --json",
    )
    verb.add_argument("cache", help="the cache folder")
    _json_option(verb)
    verb = _verb(
        cache_verbs, "verify", "cache", "check a cache against its manifest",
        "  fusecache cache verify caches/digits         # every checksum\n"
        "  fusecache cache verify caches/digits --fast  # sizes and manifest only",
    )  # fmt: skip
    verb.add_argument("cache", help="the cache folder")
    verb.add_argument("--fast", action="store_true", help="sizes and manifest only, no checksums")
    _json_option(verb)
    verb = _verb(
        cache_verbs, "ls", "cache", "list samples with their row counts and labels",
        "  fusecache cache ls caches/digits --split test --limit 5",
    )  # fmt: skip
    verb.add_argument("cache", help="the cache folder")
    verb.add_argument("--split", help="only this split")
    verb.add_argument("--limit", type=int, default=20, help="how many samples (default: 20; 0: all)")
    _json_option(verb)

    verb = _verb(
        verbs, "train", "train", "train a fusion block on a cache (a killed run goes on where it stopped)",
        "  fusecache train caches/digits --recipe digits --out runs/digits --set train.seed=1",
    )  # fmt: skip
    verb.add_argument("cache", help="the cache folder")
    verb.add_argument("-o", "--out", required=True, metavar="RUN", help="the run folder to write")
    _recipe_options(verb)
    _json_option(verb)

    verb = _verb(
        verbs, "report", "report", "write one self-contained HTML page about a run",
        "  fusecache report runs/digits    # writes runs/digits/report.html",
    )  # fmt: skip
    verb.add_argument("run", help="the run folder")
    verb.add_argument("-o", "--out", metavar="FILE", help="the page to write (default: RUN/report.html)")

    verb = _verb(
        verbs, "recipe", "recipe", "print a recipe with every default written out, or list those that ship",
        "  fusecache recipe digits --set train.epochs=5 > mine.yaml",
    )  # fmt: skip
    verb.add_argument("name", nargs="?", metavar="NAME|FILE", help="which recipe; none: list those that ship")
    verb.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        dest="overrides",
        help="override one field",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb.

    Args:
        argv: words of the command line without the program's name; None: those of this process.

    Returns:
        the exit code, as ``fusecache --help`` lists them.
    """
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.version:
        from fusecache import __version__

        sys.stdout.write(f"fusecache {__version__}\n")
        return 0
    if args.verb is None:
        parser.print_help()
        return 2
    from fusecache.cache.errors import FusecacheError

    try:
        return int(importlib.import_module(f"fusecache.verbs.{args.module}").run(args))
    except FusecacheError as error:
        if args.traceback:
            raise
        sys.stderr.write(f"fusecache {args.verb}: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write(f"\nfusecache {args.verb}: interrupted; run the same command again to go on\n")
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
