"""What was tried to make training faster, and what it gave: kept, so that nobody tries it again unawares."""

from __future__ import annotations

TRIED = """# Tried, and what it gave

Measured by hand on bare training steps, in batches of 32 on two threads unless the row says otherwise; a ratio above 1
is faster.

| tried | on | ratio of CPU seconds | built |
|---|---|---:|---|
| `torch.compile`, which takes 20 to 80 s first | resnet18 at 64 px | 0.94 | no |
| the same | vit_tiny_patch16_224 at 64 px | 1.03 | no |
| the same | mobilenetv3_small_100 at 64 px | 1.08 to 1.11 | no |
| five seeds of one suffix as one problem (`torch.func.vmap`) | mobilenetv3_small_100, k = 1 to 3 | 0.73 to 0.86 | no |
| the same | vit_tiny_patch16_224, resnet18, k = 1 | 0.73 to 0.86 | no |
| linear probes as one problem | any network, k = 0 | *64 rates and decays* above | yes |
| channels last, float32 | mobilenetv3_small_100 | about 2 | yes, where convolutions are depthwise |
| all thaw lines in one pass | mobilenetv3_small_100 at 224 px, k = 0, 1, 2, 4 | 1.24 to 1.26 (60.2 s, 47.8 s) | yes |
| the same, a whole sweep of three seeds | mobilenetv3_small_100 at 64 px | 1.01 to 1.02 | yes |
| autocast to bfloat16, channels last, with AMX | resnet18 at 224 px | 2.5 (1.24 s, 0.50 s) | yes, by choice |
| autocast to bfloat16, with AMX | vit_tiny_patch16_224 at 224 px | 1.6 (1.04 s, 0.65 s) | yes, by choice |
| autocast to bfloat16, with AMX | any network at 64 px | 1 or less | a warning |
| autocast to bfloat16, with AMX | mobilenetv3_small_100 | 0.5 | a warning |
| autocast to bfloat16, with AVX512-BF16 alone | as above | *with AVX512-BF16* above | by choice |
"""

TRIED_ON_A_GPU = """# Tried, and what it gave

In bfloat16, in batches of 64, by the clock; a ratio above 1 is faster. Steps were measured bare, on stored values that
lie on an H200; epochs and the sweep on an H100, as above. *All of these* are passes as CUDA graphs, batches read into
page-locked memory, no step that waits for a number, four threads of the CPU, and decoding in as many threads as there
are cores (before, each of them started threads of torch's own).

| tried | on | ratio | built |
|---|---|---:|---|
| passes as CUDA graphs, a step | resnet50 at 224 px, k = 1 | 5.7 (3.12 ms, 0.55 ms) | yes |
| the same | resnet50 at 224 px, k = 2 | 4.5 (4.29 ms, 0.95 ms) | yes |
| `torch.compile`, which takes 10 s first, a step | resnet50 at 224 px, k = 1 | 0.78 (4.01 ms) | no |
| five seeds as one problem (`torch.func.vmap`) | resnet50, channels last | torch cannot | no |
| values gathered on the GPU, not read from the page cache | resnet50 at 224 px, k = 1 | 1.5 ms a batch | no: hidden |
| all of these, an epoch without the store | resnet50 at 224 px, k = 1, 2, 4 | 3.4, 3.3, 3.0 | yes |
| all of these, an epoch | resnet50 at 224 px, k = all | 2.2 | yes |
| all of these, decoding and the pass that stores k = 0 | resnet50 at 224 px | 2.2 (6.7 s, 3.0 s) | yes |
| all of these, the 15 runs of the sweep | resnet50 at 224 px | 1.7 (65.3 s, 38.4 s) | yes |
"""
