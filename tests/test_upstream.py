"""What we reach into of other libraries beyond what they document, one test a row of docs/upstream.md.

When a library moves, the row's test fails here and says which file of ours leans on it, instead of a wrong number
there.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import checkpoint_forms as forms
from orchestrator.tune.trial_records import PENDING, STATE, TrialStates, _metadata, make_trials
from small_clip import make_clip
from small_intern import make_intern
from small_onevision import make_onevision
from small_qwen import make_qwen
from workers.families.catalog import load_model, open_checkpoint, parts_of
from workers.families.llava.loading import load_llava
from workers.layer_calls import cache_of, check_calls
from workers.text_tower import WHOLE, load_text_tower
from workers.work import GridPoint, ModelSpec

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def llava(small_checkpoint):
    return load_llava(ModelSpec(path=str(small_checkpoint)), "cpu")


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    folder = make_qwen(tmp_path_factory.mktemp("qwen"))
    return load_model(ModelSpec(path=str(folder), image_mode="native"), "cpu")


def moved(library: str, what: str, ours: str) -> str:
    version = importlib.import_module(library).__version__
    return f"{library} {version} has moved: {what}; {ours} leans on it (docs/upstream.md)"


def test_the_document_has_a_row_for_each_test_and_no_other():
    rows = re.findall(r"\| `(test_\w+)` \|", (ROOT / "docs/upstream.md").read_text(encoding="utf-8"))
    own = [name for name, value in globals().items() if name.startswith("test_") and inspect.isfunction(value)]
    assert sorted(rows) == sorted(set(own) - {"test_the_document_has_a_row_for_each_test_and_no_other"})


# transformers


def test_transformers_calls(llava):
    """The names by which modules hand each other the cache, the mask and positions."""
    check_calls(llava.module)
    out = llava.module(input_ids=torch.tensor([[1, 5, 6]]), use_cache=True)
    layers = cache_of(out).layers
    assert [layer.keys.shape[-2] for layer in layers] == [3, 3], moved(
        "transformers", "a cache layer's keys", "workers/patch.py"
    )
    layers[0].get_seq_length = lambda: 99  # the first layer's count is what positions follow
    assert cache_of(out).get_seq_length() == 99, moved("transformers", "where a cache counts", "workers/patch.py")


def test_transformers_outputs(llava):
    """A decoder layer gives its hidden states alone; the decoder's output may be replaced in place."""
    seen = []
    layer = llava.decoder.module.layers[0]
    handle = layer.register_forward_hook(lambda module, args, output: seen.append((args, output)))
    try:
        out = llava.decoder.module(inputs_embeds=torch.zeros(1, 3, llava.decoder.module.config.hidden_size))
    finally:
        handle.remove()
    args, output = seen[0]
    words = moved("transformers", "what a decoder layer is given and gives", "workers/patch.py")
    assert args[0].shape == output.shape == out.last_hidden_state.shape, words


def test_transformers_tree(llava):
    """The modules that the engine multiplies itself, and their numbers."""
    words = moved("transformers", "the module tree of LLaVA", "workers/decoder.py, workers/families/llava")
    names = {name for name, _ in llava.module.named_modules()}
    inner = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj")
    inner += ("mlp.up_proj", "mlp.down_proj", "input_layernorm", "post_attention_layernorm")
    wanted = {f"model.language_model.layers.0.{name}" for name in inner}
    wanted |= {f"model.language_model.{name}" for name in ("embed_tokens", "norm", "rotary_emb")}
    wanted |= {"lm_head", "model.vision_tower", "model.multi_modal_projector"}
    assert wanted <= names, f"{words}: {sorted(wanted - names)}"
    layer = llava.decoder.module.layers[0]
    assert isinstance(layer.self_attn.head_dim, int), words
    assert isinstance(layer.self_attn.scaling, float), words
    assert isinstance(layer.input_layernorm.variance_epsilon, float), words
    cos, sin = llava.decoder.module.rotary_emb(torch.empty(0), torch.arange(3)[None])
    assert cos.shape == sin.shape == (1, 3, layer.self_attn.head_dim), words
    assert llava.module.config._attn_implementation == "sdpa", words


def test_transformers_image_features(llava):
    side = llava.config.image_size
    features = llava.module.model.get_image_features(pixel_values=torch.zeros(2, 3, side, side)).pooler_output
    shapes = [tuple(one.shape) for one in features]
    words = moved("transformers", "get_image_features(...).pooler_output", "workers/families/llava/model.py")
    assert shapes == [(llava.visual_tokens, llava.decoder.module.config.hidden_size)] * 2, words


def test_transformers_tower(llava):
    """What stands between the layers of CLIP's tower, asked for as a whole, and as its layers hand it on."""
    words = moved("transformers", "the layers of CLIP's tower", "workers/families/llava/tower.py, workers/patch.py")
    parts, entered, left = parts_of(llava.module), [], []
    handles = [layer.register_forward_pre_hook(lambda _, args: entered.append(args[0])) for layer in parts.tower_layers]
    handles += [parts.tower_layers[-1].register_forward_hook(lambda _, args, out: left.append(out))]
    side = llava.config.image_size
    pixels = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    made = llava.module.model.get_image_features(pixel_values=pixels, output_hidden_states=True)
    for handle in handles:
        handle.remove()
    assert len(made.hidden_states) == len(parts.tower_layers) + 1, words
    for theirs, ours in zip(made.hidden_states, [*entered, *left], strict=True):
        assert torch.equal(theirs, ours), words
    attention = parts.tower_layers[0].self_attn
    assert attention.scale == attention.head_dim**-0.5, words


@pytest.mark.parametrize("made", [forms.hugging_face_next, make_onevision])
def test_transformers_asks_for_features(tmp_path, made):
    """Once for a prompt, by a name that can be replaced, and with the sizes of images that have tiles."""
    words = moved("transformers", "who asks for image features", "workers/patch.py, workers/families/llava/tiles.py")
    model = load_model(ModelSpec(path=str(made(tmp_path / "model")), image_mode="anyres"), "cpu")
    prompt, inner, calls = model.encode("<image>", Image.new("RGB", (90, 60)), "anyres"), model.module.model, []
    make = inner.get_image_features

    def watched(*args, **kwargs):
        calls.append(inspect.signature(make).bind(*args, **kwargs).arguments)
        return make(*args, **kwargs)

    inner.get_image_features = functools.wraps(make)(watched)
    with torch.no_grad():
        model.module(**model.inputs(prompt))
        model.module.generate(**model.inputs(prompt), max_new_tokens=2, do_sample=False)
    assert [call["image_sizes"].tolist() for call in calls] == [[[60, 90]]] * 2, words
    assert all(call["pixel_values"].shape == prompt.pixels[0].values.shape for call in calls), words
    layer = parts_of(model.module).tower_layers[0]
    assert layer.self_attn.scale == layer.self_attn.head_dim**-0.5, words
    assert hasattr(layer, "layer_norm1"), words


def test_transformers_empty_model(small_checkpoint):
    """A model without memory, whose parameters and buffers are then filled by hand."""
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    words = moved("transformers", "models on the meta device", "workers/families/building.py")
    config = LlavaConfig.from_dict(open_checkpoint(ModelSpec(path=str(small_checkpoint))).config)
    with torch.device("meta"):
        model = LlavaForConditionalGeneration._from_config(config, attn_implementation="sdpa", dtype=torch.float32)
    assert all(parameter.is_meta for parameter in model.parameters()), words
    held = {name.rpartition(".")[2] for name, _ in model.named_buffers()}
    assert held <= {"position_ids", "inv_freq", "original_inv_freq"}, f"{words}: buffers {sorted(held)}"


def test_transformers_text_tower(tmp_path):
    """Its tensors by the names in a CLIP's files, its buffers, and what it gives."""
    from transformers import CLIPTextConfig, CLIPTextModel

    words = moved("transformers", "CLIP's text tower", "workers/text_tower.py")
    stored = {name for name in load_file(make_clip(tmp_path) / "model.safetensors") if name.startswith(WHOLE)}
    config = CLIPTextConfig.from_pretrained(tmp_path)
    with torch.device("meta"):
        model = CLIPTextModel._from_config(config, attn_implementation="sdpa", dtype=torch.float32)
    assert {f"{WHOLE}{name.removeprefix(WHOLE)}" for name, _ in model.named_parameters()} == stored, words
    assert {name.rpartition(".")[2] for name, _ in model.named_buffers()} <= {"position_ids"}, words
    tower = load_text_tower(tmp_path, torch.float32, "cpu")
    states = tower._model(input_ids=torch.tensor([[1, 2]])).last_hidden_state
    norm = next(part for name, part in tower._model.named_modules() if name.endswith("final_layer_norm"))
    centred = (states - norm.bias) / norm.weight
    assert centred.mean(dim=-1).abs().max() < 1e-4, words


def test_transformers_pixels():
    """Pre-processing by PIL, asked for by name: torchvision's resize gives other pixels."""
    import transformers

    words = moved("transformers", "CLIPImageProcessorPil", "workers/families/llava/loading.py")
    assert hasattr(transformers, "CLIPImageProcessorPil"), words
    processor = transformers.CLIPImageProcessorPil(size={"shortest_edge": 4}, crop_size={"height": 4, "width": 4})
    pixels = processor(np.zeros((8, 8, 3), np.uint8), return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, 4, 4), words


def test_transformers_qwen(qwen):
    """Qwen2-VL's parts, its three rows of positions, and how its tower is called and calls its layers."""
    words = moved("transformers", "Qwen2-VL", "workers/families/qwen, workers/decoder.py")
    inner, pixels = qwen.module.model, torch.rand(24, 2 * 3 * 14 * 14)
    grid, passed, calls = torch.tensor([[1, 6, 4]]), [], []
    note = lambda _, args, how: calls.append((args, how))  # noqa: E731
    handles = [inner.visual.register_forward_pre_hook(note, with_kwargs=True)]
    for block in inner.visual.blocks:
        handles.append(block.register_forward_hook(lambda _, args, out: passed.append((args[0], out))))
    made = inner.get_image_features(pixel_values=pixels, image_grid_thw=grid)
    for handle in handles:
        handle.remove()
    assert [tuple(one.shape) for one in made.pooler_output] == [(6, qwen.config.hidden)], words
    for (_, left), (entered, _) in pairwise(passed):
        assert left is entered, words
    ((args, kwargs),) = calls
    assert len(args) == 1, words
    assert torch.equal(kwargs["grid_thw"], grid), words
    block = inner.visual.blocks[0]
    assert block.attn.scaling == (block.attn.dim // block.attn.num_heads) ** -0.5, words
    assert block.attn.head_dim == block.attn.dim // block.attn.num_heads, words
    assert {"patch_embed", "blocks", "merger"} <= {name for name, _ in inner.visual.named_children()}, words
    assert {"qkv", "proj"} <= {name for name, _ in block.attn.named_children()}, words
    assert {"norm1", "norm2", "mlp"} <= {name for name, _ in block.named_children()}, words
    assert inner.visual.spatial_merge_size == 2, words
    assert inner.visual.patch_embed.proj.bias is None, words
    assert {"window_size", "patch_size"} <= vars(inner.visual).keys(), words
    cos, sin = inner.language_model.rotary_emb(torch.empty(0), torch.arange(9).reshape(3, 1, 3))
    assert cos.shape == sin.shape == (1, 3, qwen.config.head_dim), words
    taken = inspect.signature(qwen.module.forward).parameters.keys()
    assert {"mm_token_type_ids", "pixel_values", "image_grid_thw"} <= taken, words
    check_calls(qwen.module)


def test_transformers_qwen3(tmp_path):
    """What Qwen3-VL has beside that: places that are learned, rows that are added between layers, norms of heads."""
    words = moved("transformers", "Qwen3-VL", "workers/families/qwen, workers/fused.py")
    model = load_model(ModelSpec(path=str(make_qwen(tmp_path, "qwen3_vl")), image_mode="native"), "cpu")
    visual, decoder = model.module.model.visual, model.module.model.language_model
    assert {"pos_embed", "deepstack_merger_list"} <= {name for name, _ in visual.named_children()}, words
    assert list(visual.deepstack_visual_indexes) == [0, 2], words
    assert visual.patch_embed.proj.bias is not None, words
    assert not hasattr(visual, "window_size"), words
    attention = decoder.layers[0].self_attn
    assert attention.q_norm.weight.shape == attention.k_norm.weight.shape == (model.config.head_dim,), words
    taken = list(inspect.signature(decoder._deepstack_process).parameters)
    assert taken == ["hidden_states", "visual_pos_masks", "visual_embeds"], words
    hidden, at = torch.zeros(1, 3, 2), torch.tensor([[False, True, True]])
    made = decoder._deepstack_process(hidden, at, torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    assert made.tolist() == [[[0, 0], [1, 2], [3, 4]]], words
    check_calls(model.module)


def test_transformers_intern(tmp_path):
    """How InternVL's tower is called and calls its layers, names in these, and how images are cut and tokens merged."""
    import transformers

    words = moved("transformers", "InternVL", "workers/families/intern, workers/patch.py")
    model = load_model(ModelSpec(path=str(make_intern(tmp_path)), image_mode="tiles"), "cpu")
    inner, passed, calls = model.module.model, [], []
    note = lambda _, args, how: calls.append((args, how))  # noqa: E731
    handles = [inner.vision_tower.register_forward_pre_hook(note, with_kwargs=True)]
    for layer in inner.vision_tower.encoder.layer:
        handles.append(layer.register_forward_hook(lambda _, args, out: passed.append((args[0], out))))
    made = inner.get_image_features(pixel_values=torch.rand(3, 3, 56, 56), return_dict=True, output_hidden_states=True)
    for handle in handles:
        handle.remove()
    assert made.pooler_output.shape == (3, 4, model.config.hidden), words
    assert calls[0][1].keys() | {"pixel_values"} == calls[0][1].keys(), words
    for state, (entered, _) in zip(made.hidden_states, passed, strict=False):
        assert torch.equal(state, entered), words
    assert torch.equal(made.hidden_states[-1], passed[-1][1]), words
    order = inner.pixel_shuffle(torch.arange(16.0).view(1, 4, 4, 1), 0.5).view(4, 4)
    assert order[:2].tolist() == [[0, 1, 4, 5], [2, 3, 6, 7]], words
    assert hasattr(transformers, "GotOcr2ImageProcessorPil"), words
    processor = transformers.GotOcr2ImageProcessorPil(size={"height": 56, "width": 56})
    tiles = processor(np.zeros((60, 120, 3), np.uint8), crop_to_patches=True, max_patches=2, return_tensors="pt")
    assert tiles["pixel_values"].shape == (3, 3, 56, 56), words
    check_calls(model.module)


def test_transformers_qwen_pixels():
    """Pre-processing by PIL, asked for by name, with sizes given as edges that are numbers of pixels."""
    import transformers

    words = moved("transformers", "Qwen2VLImageProcessorPil", "workers/families/qwen/loading.py, pixels.py")
    assert hasattr(transformers, "Qwen2VLImageProcessorPil"), words
    processor = transformers.Qwen2VLImageProcessorPil(size={"shortest_edge": 3136, "longest_edge": 4000})
    made = processor(np.zeros((80, 80, 3), np.uint8), return_tensors="pt")
    assert made["image_grid_thw"].tolist() == [[1, 4, 4]], words
    assert made["pixel_values"].shape == (16, 3 * 2 * 14 * 14), words


# torch


def test_torch_shared_parameters():
    """Two linear layers as views of one matrix, in order: the engine multiplies them as one."""
    joined = torch.arange(12.0).reshape(4, 3)
    first, second = joined.split((1, 3))
    words = moved("torch", "views of a split matrix", "workers/decoder.py, workers/families/llava")
    assert first.data_ptr() + first.nbytes == second.data_ptr(), words
    assert torch.equal(first.as_strided((4, 3), first.stride()), joined), words


# Ray


def test_ray_settings():
    """Environment variables that Ray reads without telling: with a typo, or renamed, they do nothing."""
    import ray

    from orchestrator.cluster import joining as cluster

    home = Path(ray.__file__).parent
    text = (home / "core/src/ray/raylet/raylet").read_bytes()
    for name in ("worker_niceness", "health_check_period_ms", "health_check_failure_threshold"):
        assert name.encode() in text, moved("ray", f"the setting RAY_{name}", "orchestrator/cluster/joining.py, tests")
    sources = "\n".join(
        (home / "_private" / name).read_text(encoding="utf-8") for name in ("ray_constants.py", "worker.py", "utils.py")
    )
    for name in ("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "RAY_DEDUP_LOGS_SKIP_REGEX",
                 "RAY_JOB_CONFIG_JSON_ENV_VAR", "RAY_IGNORE_UNHANDLED_ERRORS",
                 "RAY_ENABLE_UV_RUN_RUNTIME_ENV", cluster.HOOK):  # fmt: skip
        assert name in sources, moved("ray", f"the setting {name}", "orchestrator/cluster/joining.py")
    module, _, name = cluster.UV_HOOK.rpartition(".")
    assert callable(getattr(importlib.import_module(module), name)), moved(
        "ray", "its hook for uv", "orchestrator/cluster/joining.py"
    )


def test_ray_start():
    """Who answers at an address, which address was noted last, and how long a socket's name becomes."""
    import ray
    from ray._private import node, services
    from ray._raylet import GcsClient

    from orchestrator.cluster import joining as cluster

    words = moved("ray", "how a cluster is found and joined", "orchestrator/cluster/joining.py")
    assert callable(GcsClient), words
    assert list(inspect.signature(services.get_ray_address_from_environment).parameters) == ["addr", "temp_dir"], words
    library = (Path(ray.__file__).parent / "_raylet.so").read_bytes()
    assert b"py_gcs_connect_timeout_s" in library, words
    source = inspect.getsource(node)
    assert cluster.SLOW in source, words
    assert "plasma_store" in source, words


def test_ray_losses():
    """What Ray raises for a lost process or machine, and the words by which its kinds are told apart."""
    import ray
    from ray import exceptions

    from orchestrator.cluster import losses, ray_pool

    kinds = {kind.__name__ for kind in ray_pool._lost_errors()}
    assert kinds == {"RayActorError", "WorkerCrashedError", "NodeDiedError", "OutOfMemoryError", "ObjectLostError"}
    assert issubclass(exceptions.ActorUnavailableError, exceptions.RayError)
    for text, reason in (
        ("Task was killed due to the node running low on memory. ... memory usage threshold", "memory ran out"),
        ("Worker unexpectedly exits with a connection error code 2. End of file.", "ended without a word"),
        ("The actor died because its node has died. Node Id: 1", losses.MACHINE_GONE),
    ):
        assert reason in losses.reason_of(RuntimeError(text))
    words = moved("ray", "how a lost machine is told", "orchestrator/cluster/losses.py")
    server = (Path(ray.__file__).parent / "core/src/ray/gcs/gcs_server").read_bytes()
    assert b"its node has died" in server, words
    assert issubclass(exceptions.ActorDiedError, exceptions.RayActorError), words


def trial_of(folder: Path) -> Any:
    """Tune's record of one grid point, as we make it."""
    point = GridPoint(strategy="fastv", layer=2, rank=16)
    return make_trials(folder, {point.key: "fastv_2_16"}, [point], "context")[point.key]


def test_ray_trials(tmp_path):
    """A trial without a trainable, whose name and folder are ours, even where the folder is there already."""
    words = moved("ray", "how Tune makes a trial", "orchestrator/tune/trial_records.py")
    try:
        trial = trial_of(tmp_path / "x")
    except (TypeError, AttributeError) as error:
        pytest.fail(f"{words}: {error}")
    (tmp_path / "x/fastv_2_16").mkdir(parents=True)
    trial.init_local_path()  # as Tune's loggers do
    assert Path(trial.local_path) == Path(trial.path) == tmp_path / "x/fastv_2_16", words
    assert str(trial) == trial.experiment_tag == "fastv_2_16", words
    assert trial.experiment_dir_name == "x", words
    assert [path.name for path in (tmp_path / "x").iterdir() if path.is_dir()] == ["fastv_2_16"], words


def test_ray_trial_state(tmp_path):
    """Of what a trial says of itself nothing changes with its status but the status."""
    words = moved("ray", "Trial.get_json_state", "orchestrator/tune/trial_records.py")
    trial = trial_of(tmp_path / "x")
    before = trial.get_json_state()[0]
    assert before.count(PENDING) == 1, words
    trial.set_status("RUNNING")
    trial.update_last_result({"samples": 7, "training_iteration": 1})
    assert trial.get_json_state()[0] == before.replace("PENDING", "RUNNING", 1), words


def test_ray_trial_metadata(tmp_path):
    """Where a trial keeps what it has reported, and that its last ten values are but a part of it."""
    words = moved("ray", "Trial.run_metadata", "orchestrator/tune/trial_records.py")
    trial = trial_of(tmp_path / "x")
    for step in (1, 2):
        trial.update_last_result({"samples": 7 * step, "training_iteration": step})
    assert {"samples"} <= trial.run_metadata.metric_n_steps.keys(), words
    whole, ours = json.loads(trial.get_json_state()[1]), json.loads(_metadata(trial))
    assert whole.pop("metric_n_steps") != ours.pop("metric_n_steps") == {}, words
    assert whole == ours, words
    assert ours["metric_analysis"]["samples"]["max"] == ours["last_result"]["samples"] == 14, words


def test_ray_experiment_state(tmp_path):
    """The file in which Tune looks for trials, by its name, and what it reads there."""
    from ray.tune import ExperimentAnalysis

    words = moved("ray", "the state of an experiment", "orchestrator/tune/trial_records.py, trials.py")
    trial = trial_of(tmp_path / "x")
    states = TrialStates([trial])
    states.content(started=1.0)  # what was said then is not said again
    trial.set_status("TERMINATED")
    trial.update_last_result({"samples": 7, "accuracy": 0.5, "training_iteration": 1, "trial_id": trial.trial_id})
    (tmp_path / "x" / STATE).write_bytes(states.content(started=1.0))
    (tmp_path / "x/fastv_2_16").mkdir()
    (tmp_path / "x/fastv_2_16/result.json").write_text('{"accuracy": 0.5}\n')
    (read,) = ExperimentAnalysis(str(tmp_path / "x")).trials
    assert (read.status, read.trial_id, read.config) == ("TERMINATED", trial.trial_id, trial.config), words
    assert read.last_result["samples"] == 7, words
    assert read.metric_analysis["accuracy"]["max"] == 0.5, words
    assert read.storage.trial_fs_path == str(tmp_path / "x/fastv_2_16"), words


# dash and plotly


def test_dash_components():
    """Pages as text: the tree that a component says of itself."""
    from dash import html

    from dashboards.static_html import ELEMENTS

    said = html.Div([html.B("x", className="y")]).to_plotly_json()
    words = moved("dash", "to_plotly_json", "dashboards/static_html.py, dashboards/live/trees.py")
    assert said["namespace"] == ELEMENTS, words
    assert said["type"] == "Div", words
    (child,) = said["props"]["children"]
    assert child.to_plotly_json()["props"] == {"children": "x", "className": "y"}, words


def test_dash_in_the_browser():
    """Names of dash's and plotly's scripts that ours call."""
    import dash

    scripts = "".join(
        file.read_text(encoding="utf-8", errors="replace")
        for file in (Path(dash.__file__).parent / "dash-renderer/build").glob("dash_renderer.min.js")
    )
    for name in ("dash_clientside", "no_update", "set_props"):
        assert name in scripts, moved("dash", f"window.{name}", "dashboards/assets/app/*.js")


def test_plotly_script():
    """plotly.js as one text that reports carry with them, and what our scripts call in it."""
    from plotly.offline import get_plotlyjs

    script = get_plotlyjs()
    words = moved("plotly", "get_plotlyjs", "dashboards/report.py, dashboards/assets")
    assert len(script) > 1_000_000, words
    for name in ("downloadImage", "newPlot", "plotly_click"):
        assert name in script, f"{words}: {name}"


# tables and files


def test_parquet_metadata():
    """Key-value pairs that a writer is given last lie in the file as they are, once: a digest takes their place."""
    import pyarrow as pa

    from results.seals import MARK, check_seal, sealed

    words = moved("pyarrow", "key-value metadata of a file", "results/seals.py")
    content = sealed(pa.table({"a": [1, 2, 3]}))
    assert content.count(MARK) == 1, words
    assert check_seal(content), words


def test_tensorboard_records():
    """The checksum and messages of TensorBoard's event files, which we write ourselves."""
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.proto.summary_pb2 import Summary
    from tensorboardX.record_writer import masked_crc32c

    words = moved("tensorboardX", "its record writer", "orchestrator/tune/trial_files.py")
    event = Event(wall_time=1.0, step=2, summary=Summary(value=[Summary.Value(tag="n", simple_value=3.0)]))
    assert Event.FromString(event.SerializeToString()).summary.value[0].simple_value == 3.0, words
    assert masked_crc32c(b"saccade") == masked_crc32c(b"saccade") != masked_crc32c(b"sweep"), words


def test_pytest_plugins():
    """dash's pytest plugin is switched off by its name, which would otherwise ask for selenium."""
    from importlib.metadata import entry_points

    names = {entry.name for entry in entry_points(group="pytest11") if entry.value.startswith("dash.")}
    assert names == {"dash"}, moved("dash", f"its pytest plugin is called {names}", "pyproject.toml")
