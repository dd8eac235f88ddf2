"""The core install opens a cache and trains from it: nothing of the extras can be imported here."""

import os
import subprocess
import sys
from pathlib import Path

BLOCK = '''
"""Put before everything else by ``sitecustomize``: the extras' libraries do not exist."""
import sys

BANNED = {"decord", "torchaudio", "torchvision", "transformers", "timm", "av", "PIL", "pyarrow", "sklearn", "scipy",
          "matplotlib", "espeakng_loader", "skvideo", "tensorstore"}


class Without:
    """A finder that does not see what is banned."""

    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in BANNED else self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)


sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
'''

WORK = """
import sys
from pathlib import Path
import numpy as np
import fusecache
from fusecache.cache import CacheWriter, FeatureSpec, LabelColumn, Producer, Rows, Sample, verify
from fusecache.recipe import parse_recipe
from fusecache.run import train_run

for name in ("decord", "torchaudio", "torchvision", "transformers", "timm", "av"):
    try:
        __import__(name)
    except ImportError:
        continue
    raise SystemExit(f"{name} could be imported: this test proves nothing")

rng = np.random.default_rng(0)
producer = Producer(encoder="made-in-test", weights="none", weights_hash="", settings={}, decode="none")
specs = [FeatureSpec(modality=name, stream=name, dim=dim, producer=producer, dtype="float32") for name, dim in (("audio", 6), ("text", 4))]
cache = Path(sys.argv[1]) / "cache"
samples = []
for index in range(90):
    label = index % 3
    rows = {spec.modality: Rows(values=(rng.normal(size=(1 + index % 4, spec.dim)) + 3 * np.eye(spec.dim)[label]).astype(np.float32)) for spec in specs}
    samples.append(Sample(key=f"s{index}", rows=rows, labels={"kind": "abc"[label]}, split=("train", "val", "test")[index // 30]))
with CacheWriter(cache, specs=specs, labels=[LabelColumn(name="kind", kind="class", classes=("a", "b", "c"))], splits=("train", "val", "test")) as writer:
    writer.write_shard(0, samples)
assert verify(cache) == []
with fusecache.open(cache) as opened:
    assert len(opened) == 90
recipe = parse_recipe({"name": "core", "train": {"modalities": ["audio", "text"], "label": "kind", "epochs": 60, "batch_size": 10, "lr": 0.003, "validate_every": 20}}, source="test")
result = train_run(cache, recipe, Path(sys.argv[1]) / "run")
assert result.test["AT"] > 0.8, result.test
print("trained", result.test)
"""


def test_opens_and_trains_where_no_extra_can_be_imported(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(BLOCK)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "error::ImportWarning", "-c", WORK, str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.startswith("trained")


def test_extraction_without_the_extra_names_it(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(BLOCK)
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    (tmp_path / "a.png").write_bytes(b"PNG")
    (tmp_path / "m.csv").write_text("key,audio,image,text\nx,a.wav,a.png,one\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    command = [
        sys.executable,
        "-m",
        "fusecache",
        "extract",
        str(tmp_path / "m.csv"),
        "--recipe",
        "digits",
        "--out",
        str(tmp_path / "c"),
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 6, done.stderr
    assert "pip install 'fusecache[extract]'" in done.stderr
    assert "Traceback" not in done.stderr
