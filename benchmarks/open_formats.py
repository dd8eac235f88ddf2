"""Plain zarr and tensorstore read a cache with warnings as errors; the rows equal what the encoders produce."""

import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import finish, parser
from fusecache import datasets
from fusecache.cache import Cache, open_cache
from fusecache.extract import Clip, build_encoder, extract, read_manifest
from fusecache.extract.decode import decode
from fusecache.extract.plan import source_of
from fusecache.recipe import load_recipe


def with_zarr(store: Path) -> Callable[[str], NDArray[Any]]:
    """Arrays by path through zarr-python alone."""
    import zarr

    root: Any = zarr.open_group(store, mode="r")  # pyright: ignore[reportUnknownMemberType]
    return lambda path: np.asarray(root[path][...])


def with_tensorstore(store: Path) -> Callable[[str], NDArray[Any]]:
    """Arrays by path through tensorstore alone."""
    import tensorstore  # pyright: ignore[reportMissingTypeStubs]

    def read(path: str) -> NDArray[Any]:
        spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(store / path)}}
        return np.asarray(tensorstore.open(spec, read=True).result().read().result())  # pyright: ignore

    return read


def encoded_directly(manifest: Path, cache: Cache, step: int) -> dict[tuple[str, str], NDArray[Any]]:
    """(key, modality) to rows, from the media by encoders run one sample at a time, outside the runner."""
    recipe = load_recipe("digits")
    assert recipe.extract is not None
    media = read_manifest(manifest)
    encoders = {
        name: build_encoder(
            each.encoder, modality=name, weights=each.weights, dtype=each.dtype, options=each.options
        )
        for name, each in recipe.extract.encoders.items()
    }
    found: dict[tuple[str, str], NDArray[Any]] = {}
    for row in media.rows[::step]:
        for name, encoder in encoders.items():
            source = source_of(row, encoder.needs.stream, media)
            assert source is not None
            clip = decode(source, [encoder.needs], max_bytes=1 << 30)[0]
            assert isinstance(clip, Clip)
            rows = encoder.assemble(clip, encoder.forward(encoder.prepare(clip)))
            found[row.key, name] = rows.values.astype(cache.stored_dtype(name))
    return found


def compare(
    cache: Cache, read: Callable[[str], NDArray[Any]], expected: dict[tuple[str, str], NDArray[Any]]
) -> tuple[int, int, int]:
    """Arrays read, rows compared, rows that differ, walking the store with no code of the cache's."""
    arrays = compared = differing = 0
    revisions = cache.manifest.revisions
    for shard in cache.manifest.shards:
        base = f"shards/{shard.index:06d}"
        text, ends = read(f"{base}/samples/keys"), read(f"{base}/samples/keys_offsets")
        keys = [bytes(text[ends[i] : ends[i + 1]]).decode() for i in range(len(ends) - 1)]
        arrays += 2
        for name in cache.specs:
            values, offsets = (
                read(f"{base}/{name}.{revisions[name]}/values"),
                read(f"{base}/{name}.{revisions[name]}/offsets"),
            )
            arrays += 2
            for index, key in enumerate(keys):
                if (key, name) in expected:
                    mine = values[offsets[index] : offsets[index + 1]]
                    compared += len(mine)
                    same = mine.shape == expected[key, name].shape and np.array_equal(
                        mine, expected[key, name]
                    )
                    differing += 0 if same else max(1, len(mine))
    return arrays, compared, differing


def main() -> None:
    """Extract digits, encode a share of the samples again outside the runner, read with both libraries."""
    options = parser(__doc__ or "")
    options.add_argument("--step", type=int, default=20, help="compare every n-th sample (default: 20)")
    args = options.parse_args()
    figures: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        folder = Path(name)
        manifest = datasets.build_digits(folder / "data")
        recipe = load_recipe("digits")
        assert recipe.extract is not None
        extract(manifest, folder / "cache", recipe.extract)
        with open_cache(folder / "cache") as cache:
            expected = encoded_directly(manifest, cache, args.step)
            warnings.simplefilter("error")
            for reader, make in (("zarr", with_zarr), ("tensorstore", with_tensorstore)):
                arrays, compared, differing = compare(cache, make(folder / "cache" / "store"), expected)
                figures[reader] = {
                    "arrays_read": arrays,
                    "rows_compared": compared,
                    "rows_differing": differing,
                    "warnings": 0,
                }
                print(
                    f"{reader}: {arrays} arrays read without a warning, {compared:,} rows compared with the encoders' own, {differing} differ"
                )
    finish(args, figures)


if __name__ == "__main__":
    main()
