"""Bad recipes, and flags that change a recipe into a bad one."""

from __future__ import annotations

from tests.cli.bad.case import Case, files, nothing

GOOD = "model: scratch:bert-1x32\nvariants: {base: [export]}\n"
TRAINED = "model: scratch:bert-1x32\nstages: [finetune]\nvariants: {base: [export]}\n"
TWO = "models: {a: scratch:bert-1x32, b: scratch:bert-1x64}\nvariants: {base: [export]}\n"


#: Six levels of ten: a million values in a few lines.
BOMB = "description:\n  - &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"  - &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]\n" for level in range(1, 6)
)


def _pruned(technique: str, settings: str) -> str:
    """A recipe with one compression."""
    return TRAINED.replace("export]", f"{{{technique}: {{{settings}}}}}, export]")


def _recipe(what: str, text: str, *says: str) -> Case:
    return Case(what, ("validate", "r.yaml"), files(r_yaml=text), ("r.yaml", *says))


def _flags(what: str, *argv: str, says: tuple[str, ...], code: int = 1, text: str = TRAINED) -> Case:
    return Case(what, argv, files(r_yaml=text), says, code)


CASES = [
    Case("no such recipe", ("run", "missing.yaml"), nothing, ("missing.yaml", "toolchain list recipes")),
    Case("the recipe is a folder", ("run", "."), nothing, ("'.' is a folder", "toolchain init"), 2),
    Case("no UTF-8", ("validate", "r.yaml"), files(r_yaml=b"name: caf\xe9\n"), ("r.yaml", "UTF-8")),
    _recipe("an empty recipe", "", "mapping", "recipes/README.md"),
    _recipe("a list, no mapping", "- a\n- b\n", "mapping"),
    _recipe("no YAML", "name: [a, b\nvariants: {}\n", "r.yaml:2:"),
    _recipe("a tab for indentation", "variants:\n\tbase: [export]\n", "r.yaml:2:", "\\t"),
    _recipe("a key that stands there twice", GOOD + "model: other\n", "r.yaml:3:1", "model"),
    _recipe("aliases that multiply", GOOD + BOMB, "10,000 values", "TOOLCHAIN_LIMIT_RECIPE_VALUES"),
    _recipe("a tag", GOOD + "model: !!int ''\n", "r.yaml:3:8", "int", "without a tag"),
    _recipe("lists inside each other", GOOD + "model: " + "[" * 500 + "\n", "r.yaml:3:", "64 levels", "NESTING"),
    _recipe("an unknown key", GOOD + "engine: [onnxruntime]\n", "r.yaml:3:1", "engine", "did you mean 'engines'?"),
    _recipe("an unknown task", GOOD + "task: review\n", "r.yaml:3:1", "'review'", "did you mean 'reviews'?"),
    _recipe("a task that is no name", GOOD + "task: [reviews]\n", "r.yaml:3:1", "['reviews']", "NAME"),
    _recipe("an unknown technique", GOOD.replace("export]", "export, dynamic_int]"), "'dynamic_int'", "did you mean"),
    _recipe("an unknown engine", GOOD + "engines: [onnx_runtime]\n", "'onnx_runtime'", "did you mean 'onnxruntime'?"),
    _recipe("an engine in a variant", GOOD.replace("export]", "export, onnxruntime]"), "engine", "under engines"),
    _recipe("a technique under engines", GOOD + "engines: [dynamic_int8]\n", "dynamic_int8", "variant"),
    _recipe("two engines of one name", GOOD + "engines: [pytorch, pytorch]\n", "'pytorch'", "as: NAME"),
    _recipe("no engine", GOOD + "engines: []\n", "empty", "onnxruntime"),
    _recipe("an unknown setting", GOOD.replace("export]", "{export: {opsett: 20}}]"), "'opsett'", "'opset'"),
    _recipe("a value out of range", GOOD.replace("export]", "{export: {opset: 25}}]"), "opset", "25", "21"),
    _recipe("text for a number", GOOD.replace("export]", "{export: {opset: twenty}}]"), "opset", "'twenty'", "number"),
    _recipe("a fraction for a whole number", GOOD.replace("export]", "{export: {opset: 19.5}}]"), "19.5", "whole"),
    _recipe("YAML 1.1's yes", GOOD.replace("export]", "export, {dynamic_int8: {per_channel: yes}}]"), "'yes'", "true"),
    _recipe("NaN", TRAINED.replace("finetune", "{finetune: {learning_rate: .nan}}"), "learning_rate", "finite"),
    _recipe("a word that is not among the choices", GOOD + "report: {split: train}\n", "'train'", "'dev'"),
    _recipe("a date for a number", GOOD.replace("export]", "{export: {opset: 2026-01-01}}]"), "opset", "2026-01-01"),
    _recipe("settings that are no mapping", GOOD.replace("export]", "{export: 20}]"), "export", "20", "mapping"),
    _recipe("two techniques in one item", GOOD.replace("export]", "{export: {}, dynamic_int8: {}}]"), "export", "NAME"),
    _recipe("all weights gone", _pruned("magnitude_prune", "sparsity: 1.0"), "sparsity", "1.0", "not below 1"),
    _recipe("all heads gone", _pruned("gradient_prune", "remove: {heads: 1.0}"), "remove.heads", "1.0", "not below 1"),
    _recipe("all layers gone", _pruned("gradient_prune", "remove: {layers: 1}"), "1 of 1 layers", "one must stay"),
    _recipe("a layer that is not there", _pruned("magnitude_prune", "remove: {layers: [7]}"), "no layer 7", "0 to 0"),
    _recipe("nothing to remove", _pruned("magnitude_prune", "remove: {}"), "nothing is to be removed"),
    _recipe("zeros and shapes", _pruned("magnitude_prune", "sparsity: 0.5, remove: {ffn: 0.5}"), "choose one"),
    _recipe("movement without training", _pruned("movement_prune", "finetune: null"), "movement", "finetune"),
    _recipe("a rank of nothing", _pruned("low_rank", "rank: 0"), "rank", "0 is below 1"),
    _recipe("a rank in two ways", _pruned("low_rank", "rank: 16, energy: 0.9"), "rank and energy", "one way"),
    _recipe("no faster", _pruned("latency_prune", "speedup: 1"), "speedup", "1 is not above 1"),
    _recipe("a vocabulary of nothing", _pruned("vocabulary_prune", "tokens: 0"), "tokens", "0 is below 1"),
    _recipe("factors of factors", _pruned("low_rank", "rank: 8}}, {low_rank: {rank: 8"), "low_rank", "already"),
    _recipe(
        "an augmentation that nothing learns from",
        TRAINED.replace("[export]", "[neighbours, export]"),
        "nothing after neighbours learns",
        "before finetune",
    ),
    _recipe(
        "an augmentation that nobody labels",
        TRAINED.replace("[finetune]", "[neighbours, finetune]"),
        "teacher: before",
        "teacher: null",
    ),
    _recipe(
        "texts without labels, and without a teacher",
        _pruned("unlabelled_text", "path: more.txt, teacher: null"),
        "unlabelled_text",
        "nobody has labelled",
    ),
    _recipe(
        "a student of more layers than its teacher",
        _pruned("distill", "layers: 7"),
        "distill",
        "7 layers, from a model of 1",
        "fewer",
    ),
    _recipe(
        "a teacher that is not there",
        _pruned("distill", "teacher: ./models/large"),
        "distill: teacher",
        "./models/large",
        "hub id",
    ),
    _recipe("a teacher without a name", _pruned("distill", "teacher: ''"), "teacher", "no letters", "before"),
    _recipe(
        "texts longer than the model reads",
        _pruned("distill", "finetune: {max_length: 1024}"),
        "max_length: 1024 is more than the 512 tokens",
        "512 or less",
    ),
    _recipe("a codebook of 8 bits", _pruned("learned_qat", "levels: codebook"), "6 bits or fewer", "uniform"),
    _recipe(
        "sizes in layers of a low rank",
        _pruned("low_rank", "rank: 8}}, {dynabert: {samples: 1"),
        "no order of heads and neurons",
        "after subnetwork",
    ),
    Case(
        "unlabelled texts in a file of nothing but white space",
        ("validate", "r.yaml"),
        files(r_yaml=_pruned("unlabelled_text", "path: more.txt}}, {distill: {layers: 1"), more_txt="\n \n"),
        ("more.txt: is empty",),
    ),
    _recipe("no variants", "model: scratch:bert-1x32\n", "variants", "at least one"),
    _recipe("an empty variant", GOOD.replace("[export]", "[]"), "variants.base", "empty", "[export]"),
    _recipe("a variant that is no list", GOOD.replace("[export]", "export"), "variants.base", "'export'", "list"),
    _recipe("a variant without export", TRAINED.replace("export", ""), "variants.base", "never exported"),
    _recipe("export before fine-tuning", GOOD.replace("export]", "export, finetune]"), "finetune", "after export"),
    _recipe("export twice", GOOD.replace("export]", "export, export]"), "export", "twice"),
    _recipe("two quantizers", GOOD.replace("export]", "export, dynamic_int8, static_int8]"), "one quantizer"),
    _recipe("a variant named like a path", GOOD.replace("base", "../base"), "'../base'", "name"),
    _recipe("a recipe named like a path", GOOD + "name: ../../elsewhere\n", "'../../elsewhere'", "name"),
    _recipe("an unknown baseline", GOOD + "baseline: {variant: bse}\n", "'bse'", "did you mean 'base'?"),
    _recipe(
        "a speedup that is not measured", GOOD + "report: {speedup: batch 64}\n", "'batch 64'", "batch 1, batch 32"
    ),
    _recipe("a check without a bound", GOOD + "check: {at: batch 32}\n", "no bound", "accuracy_drop"),
    _recipe(
        "an unknown bound", GOOD + "check: [{acuracy: 90}]\n", "r.yaml:3:10", "'acuracy'", "did you mean 'accuracy'?"
    ),
    _recipe("a check of an unknown engine", GOOD + "check: {engines: [bse], accuracy: 90}\n", "'bse'", "'base'"),
    _recipe(
        "a bound at a batch that is not timed", GOOD + "check: {per_s: 9, at: batch 64}\n", "'batch 64'", "batch 32"
    ),
    _recipe("a latency at a batch", GOOD + "check: {latency_ms: 9, at: batch 32}\n", "latency_ms", "per_s"),
    _recipe("a throughput at batch 1", GOOD + "check: {per_s: 9}\n", "per_s", "batch size"),
    _recipe("a check of an unknown gate", GOOD + "check: {gates: [fused]}\n", "'fused'", "fusion"),
    _recipe("a ratio of the baseline alone", GOOD + "check: {accuracy_drop: 1}\n", "accuracy_drop", "no other engine"),
    _recipe("a seed twice", GOOD + "seeds: [17, 17]\n", "[17, 17]", "twice"),
    _recipe("a negative seed", GOOD + "seeds: [-1]\n", "[-1]", "from 0"),
    _recipe("no model", "variants: {base: [export]}\n", "model", "--model"),
    _recipe("model and models", GOOD + "models: {a: x/y}\n", "both", "one of them"),
    _recipe("a model that is no text", GOOD.replace("scratch:bert-1x32", "[a]"), "source", "hub id"),
    _recipe(
        "an unknown setting of a model",
        TWO.replace("a: scratch:bert-1x32", "a: {source: x/y, sorce: z}"),
        "'sorce'",
        "'source'",
    ),
    _recipe(
        "settings of a model that no variant uses",
        TWO.replace("a: scratch:bert-1x32", "a: {source: x/y, dynamic_int8: {}}"),
        "dynamic_int8",
        "no variant",
    ),
    _recipe(
        "settings of a model that are no mapping",
        TWO.replace("a: scratch:bert-1x32", "a: {source: x/y, export: 20}"),
        "export",
        "20",
        "mapping",
    ),
    _recipe(
        "several problems at once",
        "engin: x\nseeds: a\nvariants: {base: [exprt]}\n",
        "r.yaml:1:1",
        "r.yaml:2:1",
        "r.yaml:3:19",
        "models: missing",
    ),
    _flags("--set without a value", "run", "r.yaml", "--set", "epochs", says=("--set epochs", "key=value")),
    _flags(
        "--set of a key that is nowhere",
        "run",
        "r.yaml",
        "--set",
        "finetun.epochs=1",
        says=("'finetun'", "did you mean 'finetune'?"),
    ),
    _flags(
        "--set of a technique without its setting",
        "run",
        "r.yaml",
        "--set",
        "finetune=1",
        says=("finetune.SETTING=VALUE",),
    ),
    _flags(
        "--set of a technique that the recipe does not use",
        "run",
        "r.yaml",
        "--set",
        "static_int8.percentile=99",
        says=("'static_int8'", "no technique in it"),
    ),
    _flags(
        "--set of an item that is not there",
        "run",
        "r.yaml",
        "--set",
        "stages.3.epochs=1",
        says=("stages", "'3'", "finetune"),
    ),
    _flags(
        "--set of a value out of range",
        "run",
        "r.yaml",
        "--set",
        "finetune.epochs=0",
        says=("--set finetune.epochs=0", "below 1"),
    ),
    _flags("--set of a value that is no YAML", "run", "r.yaml", "--set", "finetune.epochs=[1", says=("'[1'", "YAML")),
    _flags("--set of a date that is none", "run", "r.yaml", "--set", "name=2026-13-45", says=("2026-13-45",)),
    _flags(
        "--model that the recipe does not name",
        "run",
        "r.yaml",
        "--model",
        "c=x/y",
        text=TWO,
        says=("'c'", "known: a, b"),
    ),
    _flags(
        "--model without saying which",
        "run",
        "r.yaml",
        "--model",
        "x/y",
        text=TWO,
        says=("several models: a, b", "NAME=SOURCE"),
    ),
    _flags("--data that is not there", "run", "r.yaml", "--data", "nowhere", says=("nowhere", "no such file")),
    _flags("--data of a task that makes its own", "run", "r.yaml", "--data", ".", says=("reviews", "--set task=")),
    _flags("--force of no stage", "run", "r.yaml", "--force", "train", says=("'train'", "finetune"), code=2),
    _flags("--threads that is no number", "run", "r.yaml", "--threads", "many", says=("--threads", "'many'"), code=2),
    _flags("an unknown command", "bencmark", "r.yaml", says=("'bencmark'", "did you mean 'benchmark'?"), code=2),
    _flags("an unknown option", "run", "r.yaml", "--sets", "a=1", says=("--sets", "--set"), code=2),
    _flags("no recipe to run", "run", says=("RECIPE",), code=2),
    _flags("a report before the run", "report", "r.yaml", says=("have not been run", "toolchain run r.yaml")),
    _flags("--check without bounds", "run", "r.yaml", "--check", says=("no bounds", "check: {accuracy_drop: 1.0}")),
    _flags("--junit without --check", "run", "r.yaml", "--junit", "x.xml", says=("--check",), code=2),
    _flags("--task beside a recipe", "export", "r.yaml", "--task", "sst2", says=("--task", "--set"), code=2),
    _flags("--variant that is not there", "run", "r.yaml", "--variant", "nase", says=("'nase'", "did you mean 'base'")),
    _flags("--variant with --check", "run", "r.yaml", "--variant", "base", "--check", says=("--check", "some"), code=2),
    _flags("--variant of a direct run", "export", "model", "--variant", "base", says=("--variant",), code=2),
    _flags("--technique beside a recipe", "optimize", "r.yaml", "-t", "dynamic_int8", says=("--technique",), code=2),
    _flags("gc without saying what stays", "gc", says=("recipes", "--all"), code=2),
    _flags("gc of a missing recipe", "gc", "missing.yaml", says=("missing.yaml",)),
]
