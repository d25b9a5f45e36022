# %% [markdown]
# # LoRA: learn the change, not the weight
#
# Fine-tuning starts from a trained weight $W_0$ and ends at another weight $W$. This lesson looks at the difference of
# the two. The difference turns out to be simple, and LoRA, *low-rank adaptation* (Hu et al. 2021,
# [2106.09685](https://arxiv.org/abs/2106.09685)), is what follows from that.
#
# The model here is small. It writes surnames from the United States, letter by letter, and you will teach it Polish
# ones. All of it runs on a laptop without a graphics card, in less than a minute.
#
# You need some Python, matrix products, and what a gradient is.
#
# The cells follow a rhythm:
#
# - **Predict.** Put your guess in place of `None` *before* you run what comes next. A wrong guess teaches more than none.
# - **Run**, then **check**: an `assert` says what must be true, and why.
# - **See** a picture, and read what it means.
# - **Break it.** Something is made wrong on purpose, and you see which check notices.
# - **Make.** At the end you write LoRA yourself.

# %% tags=["run"]
import numpy as np
from threadpoolctl import threadpool_limits

from tinypeft import AutoModelForCausalLM, AutoTokenizer
from tinypeft.training import TrainingArguments, bits_per_character, encode_rows, surnames, train, us_surnames
from tinypeft.viz import Picture, Predictions, broken, plot_curves, plot_matrices, self_check, show

threads = threadpool_limits(1)  # matrices as small as these are multiplied faster by one core than by several
notes = Predictions()
tokenizer = AutoTokenizer.from_pretrained("tinypeft/surnames")
polish, american = surnames("polish"), us_surnames().test[::13]
rows = encode_rows([{"text": name} for name in polish.train], tokenizer)

# %% [markdown]
# <a id="change"></a>
# ## What fine-tuning changes
#
# First a way to measure. *Bits per character* says how surprised a model is by names that it has not seen. A letter to
# which it gave the probability 1/2 costs 1 bit, a letter with 1/4 costs 2 bits, and so on; we take the mean. Lower is better. A
# model that knows nothing but the letters A-Z and a-z, and that a name ends, needs 5.73 bits.

# %% tags=["run"]
def load():
    return AutoModelForCausalLM.from_pretrained("tinypeft/surnames")


def bits(model, names=polish.test):
    return bits_per_character(model, names, tokenizer)


base = load()
print(f"the base model: {bits(base, american):.2f} bits on US names, {bits(base):.2f} on Polish names")

# %% tags=["check"]
assert round(np.log2(26 + 26 + 1), 2) == 5.73, "52 letters and the end of the name, all equally likely"
assert bits(base, american) < bits(base) < 5.73, "the base should know US names best, and Polish ones better than chance"

# %% [markdown]
# **Run.** Now the plain way: *full fine-tuning*. Every number of the model may move. We make 120 steps, each on 32 Polish
# names. On the way, `look` notes how good the model is at Polish and at US names. That is for the end of the lesson.

# %% tags=["run"]
def fit(model, learning_rate, quiet=False, path=None):
    def look(step, history):
        if path is not None and step % 20 == 0:
            path.append((bits(model), bits(model, american)))

    arguments = TrainingArguments(max_steps=120, per_device_train_batch_size=32, learning_rate=learning_rate, seed=0,
                                  lr_scheduler_type="cosine", warmup_steps=30, adam_beta2=0.99, disable_tqdm=quiet)
    assert (arguments.max_steps, arguments.per_device_train_batch_size) == (120, 32), "as the text says"
    return train(model, rows, arguments, pad_token_id=tokenizer.pad_token_id, on_step_end=look)


# %% tags=["run"]
full, full_path = load(), []
fit(full, learning_rate=2e-3, path=full_path)
print(f"Polish names: {bits(base):.2f} bits before, {bits(full):.2f} after")

# %% tags=["check", "learned"]
assert bits(full) < bits(base) - 0.5, "full fine-tuning should save half a bit per character at least"

# %% [markdown]
# Take one weight of the model: the query projection of layer 1. It is a matrix of 96 rows and 96 columns. Training moved
# it from $W_0$ to $W$, so the change $\Delta W = W - W_0$ is a matrix of the same shape.
#
# How complicated is it? The *singular value decomposition* writes any matrix as a sum of pieces, the largest first:
#
# $$\Delta W = \sigma_1 u_1 v_1^\top + \sigma_2 u_2 v_2^\top + \dots$$
#
# A piece $u v^\top$ is a column times a row, the simplest kind of matrix. The number $\sigma$ is its size. We call the sum
# of the squares of all numbers in a matrix its *squared size*; it is $\sigma_1^2 + \sigma_2^2 + \dots$, so each piece
# holds a share of it. The number of pieces that are not zero is the *rank* of the matrix, here 96 at most.

# %% tags=["predict"]
guess = None  # <- type your guess in place of None: a number from 1 to 96
notes.predict("pieces", "How many of the 96 pieces hold 90 % of the change's squared size?", guess)

# %% tags=["run"]
PATH = "model.layers.1.self_attn.q_proj"
W0 = base.state_dict()[f"{PATH}.weight"]
change = full.state_dict()[f"{PATH}.weight"] - W0


def shares(matrix):
    """The share of the squared size that the largest 0, 1, 2, ... pieces hold."""
    squares = np.linalg.svd(matrix, compute_uv=False) ** 2
    return np.concatenate([[0], np.cumsum(squares)]) / squares.sum()


# %% tags=["check"]
random_matrix = np.random.default_rng(0).standard_normal(W0.shape)
needed = [int(np.argmax(shares(matrix) >= 0.90)) for matrix in (change, W0, random_matrix)]
notes.reveal("pieces", needed[0])
print(f"the change needs {needed[0]} pieces, the weight itself {needed[1]}, a random matrix {needed[2]}")
assert change.shape == (96, 96), "the query projection maps 96 numbers to 96 numbers"
assert np.isclose((change**2).sum(), (np.linalg.svd(change)[1] ** 2).sum()), "the pieces must add up to all of the change"

# %% tags=["check", "learned"]
assert needed[0] < 96 / 4, "the change should fit in less than a quarter of the pieces"
assert needed[0] < needed[1] < 96 / 2 < needed[2], "the change should be simpler than the weight, and both than noise"

# %% tags=["see"]
counts = range(97)
curves = {"the change": (counts, shares(change)), "the weight itself": (counts, shares(W0)),
          "a random matrix": (counts, shares(random_matrix))}
show(plot_curves(curves, "number of pieces kept, out of 96", "share of the squared size",
                 "A few pieces hold most of the change", levels={"90 %": 0.9}))

# %% [markdown]
# The steeper a curve, the simpler the matrix. Fine-tuning had 96 pieces at hand and mostly used a few. The weight itself needs
# more of them, and a matrix of random numbers needs more than half of the 96.
#
# But does the small rest matter? Let us throw it away and see. `with_rank(k)` keeps, in the change of every
# linear layer, the `k` largest pieces only. (The changes of embeddings, norms and biases stay: so even `k = 0` is a good deal
# better than the base.)

# %% tags=["predict"]
guess = None  # <- a number from 0 to 100
notes.predict("kept", "What does rank 8 keep of all that the linear layers' changes bring, in percent?", guess)

# %% tags=["run"]
def with_rank(k):
    model, state = load(), {}
    for name, weight in model.state_dict().items():
        difference = full.state_dict()[name] - weight
        if "proj" in name and difference.ndim == 2:  # the weight of a linear layer
            u, s, vt = np.linalg.svd(difference, full_matrices=False)
            difference = (u[:, :k] * s[:k]) @ vt[:k]  # (out, k) @ (k, in) -> (out, in)
        state[name] = weight + difference
    return model.load_state_dict(state)


# %% tags=["check"]
cut = {k: bits(with_rank(k)) for k in (0, 1, 2, 4, 8, 16, 96)}
kept = (cut[0] - cut[8]) / (cut[0] - cut[96])
notes.reveal("kept", 100 * kept)
assert abs(cut[96] - bits(full)) < 1e-3, "with all pieces kept, this must be the fully fine-tuned model"

# %% tags=["check", "learned"]
assert kept > 0.85, "rank 8 should keep more than 85 % of what the linear layers' changes bring"

# %% tags=["see"]
show(plot_curves({"change cut to k pieces": (list(cut), list(cut.values()))}, "k, the pieces kept in every linear layer",
                 "bits per character, Polish names", "Eight pieces do nearly all of the work",
                 levels={"base model": bits(base), "full fine-tuning": bits(full)}))

# %% [markdown]
# This is the observation that LoRA starts from. The change that fine-tuning makes is *nearly of low rank*: with 8 pieces
# of 96, more than 85 % of what the linear layers' changes bring is still there. It is seen here, in this model; it is not
# a law.

# %% [markdown]
# <a id="low-rank"></a>
# ## Two thin matrices instead of one
#
# So why train all of $\Delta W$, and find out afterwards that a few pieces were enough? A matrix of at most $r$
# pieces is a product of two thin ones. Train those instead:
#
# $$W = W_0 + \frac{\alpha}{r}\, B A \qquad B\ (d_{out}, r), \quad A\ (r, d_{in})$$
#
# $W_0$ stays frozen. $A$ brings an input of $d_{in}$ numbers down to $r$ numbers, and $B$ brings these up to $d_{out}$. The
# *rank* $r$ is yours to choose. The factor $\alpha / r$ only sets how strong the product is; more of it below.

# %% tags=["predict"]
guess = None  # <- a number from 0 to 100
notes.predict("share", "A matrix of 4096 x 4096, and r = 16. How many percent of its numbers do A and B have?", guess)

# %% tags=["run"]
def numbers_in_lora(d_out, d_in, r):
    return d_out * r + r * d_in  # B and A


for d_out, d_in, r in [(96, 96, 8), (256, 96, 8), (4096, 4096, 16)]:
    lora, whole = numbers_in_lora(d_out, d_in, r), d_out * d_in
    print(f"{d_out} x {d_in}, r = {r}: {lora:,} numbers instead of {whole:,}, that is {lora / whole:.2%}")
notes.reveal("share", 100 * lora / whole)

# %% tags=["check"]
def check_smaller(d_out, d_in, r):
    lora, whole = numbers_in_lora(d_out, d_in, r), d_out * d_in
    assert lora < whole, f"with r = {r}, A and B have {lora:,} numbers and the matrix itself only {whole:,}"


check_smaller(96, 96, 8)
some_B, some_A = random_matrix[:, :8], random_matrix[:8]  # (96, 8) and (8, 96)
assert np.linalg.matrix_rank(some_B @ some_A) == 8, "a product through 8 numbers has rank 8 at most, though it is 96 x 96"
assert (numbers_in_lora(96, 96, 8), W0.size) == (1_536, 9_216), "r (d_in + d_out) against d_in d_out"

# %% tags=["see"]
ranks = list(range(1, 65))
curves = {"A and B": (ranks, [numbers_in_lora(96, 96, r) for r in ranks]), "the whole matrix": (ranks, [96 * 96] * len(ranks))}
show(plot_curves(curves, "rank r", "numbers to train", "Counts for a matrix of 96 rows and 96 columns"))
assert numbers_in_lora(96, 96, 48) == 96 * 96, "the lines should cross at r = 48"

# %% [markdown]
# A full matrix has $d_{out} \cdot d_{in}$ numbers: an area. LoRA has $r\,(d_{out} + d_{in})$: a few edges. Here that is 1,536
# instead of 9,216. The larger the matrix, the more an area exceeds its edges. And there is a rank from
# which LoRA saves nothing: for this matrix it is 48.
#
# **Break it.** Choose a rank beyond that.

# %% tags=["break"]
with broken("r = 64 for a matrix of 96 x 96"):
    check_smaller(96, 96, 64)

# %% [markdown]
# <a id="zero-start"></a>
# ## Why B starts at zero
#
# Training has to start somewhere. LoRA fills $A$ with small random numbers and $B$ with zeros. Then it is put into the
# model: `get_peft_model` freezes all weights and adds an $A$ and a $B$ to each layer that we name.

# %% tags=["predict"]
guess = None  # <- "none", "a little" or "a lot"
notes.predict("start", "How much does an untrained LoRA change the model's output?", guess, ["none", "a little", "a lot"])

# %% tags=["run"]
from tinypeft import LoraConfig, get_peft_model
from tinypeft.training import collate

config = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear")
adapted = get_peft_model(load(), config, seed=0)
batch = collate(rows[:32], tokenizer.pad_token_id)  # input_ids, attention_mask, labels: each (32, T)
before = base(**batch).logits.data  # (32, T, 55): 52 letters, start, end, padding
difference = np.abs(adapted(**batch).logits.data - before).max()
print(f"largest difference of any score: {difference}")

# %% tags=["check"]
def check_start(model):
    difference = np.abs(model(**batch).logits.data - before).max()
    assert difference == 0.0, f"the model must be the base exactly; its scores differ by up to {difference:.3g}"


check_start(adapted)
notes.reveal("start", "none")

# %% [markdown]
# Not "small": zero, to the last bit. $B = 0$ makes $B A = 0$, whatever $A$ is, and adding zero changes nothing. So
# training begins at the model that you trust, and not at a damaged one.
#
# **Break it.** Let $B$ start random too, between $-1/\sqrt{r}$ and $1/\sqrt{r}$. Layers with $r$ inputs usually start so.

# %% tags=["run"]
def fill(model, which, scale):
    """Give every A ("lora_A") or every B ("lora_B") random numbers between -scale and scale."""
    random = np.random.default_rng(1)
    for name, parameter in model.named_parameters():
        if which in name:
            parameter.data = random.uniform(-scale, scale, parameter.shape).astype(np.float32)
    return model


# %% tags=["break"]
both_random = fill(get_peft_model(load(), config), "lora_B", 8**-0.5)
with broken("A and B both start random"):
    check_start(both_random)
print(f"US names: {bits(base, american):.2f} bits for the base, {bits(both_random, american):.2f} with this start")

# %% tags=["check"]
assert bits(both_random, american) > bits(base, american) + 0.1, "a random start should damage what the base knows"

# %% [markdown]
# And if both start at zero? The output would be right, too. But look at the gradients first.

# %% [markdown]
# <a id="first-step"></a>
# ## The first step moves B only
#
# Training needs gradients: how the loss changes with each number of $A$ and of $B$.

# %% tags=["predict"]
guess = None  # <- "A", "B", "both" or "neither"
notes.predict("first-step", "At the first step, which of the two gets a gradient that is not zero?", guess,
              ["A", "B", "both", "neither"])

# %% tags=["run"]
LAYER = f"base_model.model.{PATH}"


def gradients(model):
    """The gradients of A and B in the query projection of layer 1."""
    model.zero_grad()
    model(**batch).loss.backward()
    layer = model.get_submodule(LAYER)
    return layer.lora_A["default"].weight.grad, layer.lora_B["default"].weight.grad


dA, dB = gradients(adapted)  # (8, 96) and (96, 8)
print(f"largest number in dA: {np.abs(dA).max()}, in dB: {np.abs(dB).max():.2g}")

# %% tags=["check"]
def check_learns(model):
    dA, dB = gradients(model)
    assert dA.any() or dB.any(), "no gradient anywhere: this model can never learn"


check_learns(adapted)
assert not dA.any(), "B is zero, and every path from A to the loss goes through B"
assert dB.any(), "A is not zero, so B must get a gradient"
notes.reveal("first-step", "B")

# %% tags=["see"]
show(plot_matrices({"dA": dA, "dB": dB}, "Gradients at the first step", "derivative of the loss"))

# %% [markdown]
# The picture follows from the shapes. Let the rows of $x$ be $n$ inputs of one layer, $(n, d_{in})$, and let the rows of $g$
# say how the loss changes with its outputs, $(n, d_{out})$. With $s = \alpha / r$, the layer computes
#
# $$y = x W_0^\top + s\, (x A^\top) B^\top .$$
#
# $B$ meets $x A^\top$, which has shape $(n, r)$. $A$ meets $x$, and what comes back to it has passed through $B$:
#
# $$dB = s\, g^\top (x A^\top) \qquad (d_{out}, n)(n, r) = (d_{out}, r)$$
# $$dA = s\, B^\top g^\top x \qquad (r, d_{out})(d_{out}, n)(n, d_{in}) = (r, d_{in})$$
#
# $B = 0$ makes $dA = 0$. It does not make $dB = 0$. Do not take the formulas on trust: compare them with what the library's
# autograd computes, for a layer whose $B$ is *not* zero.

# %% tags=["run"]
from tinypeft import Tensor

random = np.random.default_rng(2)
layer = fill(get_peft_model(load(), config), "lora_B", 0.1).get_submodule(LAYER)
A, B = layer.lora_A["default"].weight, layer.lora_B["default"].weight
x, g = (random.standard_normal((5, 96)).astype(np.float32) for _ in range(2))
layer(Tensor(x)).backward(g)

# %% tags=["check"]
def check_gradients(s):
    by_hand = {"dB": s * g.T @ (x @ A.data.T), "dA": s * B.data.T @ g.T @ x}
    for (name, mine), theirs in zip(by_hand.items(), (B.grad, A.grad), strict=True):
        error = np.abs(mine - theirs).max() / np.abs(theirs).max()
        assert error < 1e-5, f"{name} by hand and by autograd differ by {error:.0%} of the largest number"


check_gradients(s=16 / 8)

# %% [markdown]
# **Break it.** Leave out the scale $s$. Then: let both matrices start at zero.

# %% tags=["break"]
with broken("the scale s is left out of the gradients"):
    check_gradients(s=1)
both_zero = fill(get_peft_model(load(), config), "lora_A", 0)
check_start(both_zero)  # the output is right ...
with broken("A and B both start at zero"):
    check_learns(both_zero)  # ... and nothing can ever be learned

# %% [markdown]
# So one of the two must be zero and the other must not. That $B$ is the zero one is a convention of the paper.
#
# The zero in $dA$ lasts for one step only. After it, $B$ has moved, and $A$ learns as well:

# %% tags=["check"]
from tinypeft.training import SGD

one_step = get_peft_model(load(), config)
gradients(one_step)
SGD([parameter for parameter in one_step.parameters() if parameter.requires_grad], lr=0.1).step()
dA, dB = gradients(one_step)
print(f"at the second step, largest number in dA: {np.abs(dA).max():.2g}, in dB: {np.abs(dB).max():.2g}")
assert dA.any(), "after one step B is not zero any more, so A must get a gradient"

# %% [markdown]
# <a id="scaling"></a>
# ## What alpha / r does
#
# The strength of the product is $s = \alpha / r$. First, does the library compute what the formula says?

# %% tags=["check"]
def check_forward(s):
    by_hand = x @ W0.T + s * (x @ A.data.T) @ B.data.T  # (5, 96) @ (96, 96), and (5, 96) @ (96, 8) @ (8, 96)
    theirs = layer(Tensor(x)).data - layer.base_layer.bias.data
    error = np.abs(by_hand - theirs).max()
    assert error < 1e-4, f"the layer and the formula with s = {s:g} differ by {error:.2g}: is alpha / r in both?"


check_forward(s=16 / 8)
with broken("alpha is used instead of alpha / r"):
    check_forward(s=16)

# %% [markdown]
# One often reads that $\alpha$ is "a learning rate for LoRA". Test it: double $\alpha$ and see how much farther the first
# step moves the weight. Do it with plain gradient descent (`SGD`), then with `AdamW`, which nearly everybody uses.

# %% tags=["predict"]
guess = None  # <- a number
notes.predict("sgd", "Alpha is doubled. By what factor does the first step's change of W grow under SGD?", guess)
guess = None  # <- a number
notes.predict("adamw", "And by what factor under AdamW?", guess)

# %% tags=["run"]
from tinypeft.training import AdamW


def first_change(optimizer, alpha):
    """The size of (alpha / r) B A after one step."""
    model = get_peft_model(load(), LoraConfig(r=8, lora_alpha=alpha, target_modules="all-linear"))
    gradients(model)
    optimizer([parameter for parameter in model.parameters() if parameter.requires_grad], lr=1e-3).step()
    return np.linalg.norm(model.get_submodule(LAYER).delta_weight("default"))


# %% tags=["check"]
factors = {kind.__name__: first_change(kind, alpha=16) / first_change(kind, alpha=8) for kind in (SGD, AdamW)}
notes.reveal("sgd", factors["SGD"])
notes.reveal("adamw", factors["AdamW"])
assert abs(factors["SGD"] - 4) < 0.05, "SGD: s stands in the gradient of B and again in s B A"
assert abs(factors["AdamW"] - 2) < 0.05, "AdamW divides the gradient by its own size, so s counts once"

# %% [markdown]
# So it depends. $dB$ has a factor $s$, and $W_0 + s B A$ has another. Under SGD both count: twice the $\alpha$, four times the
# step. AdamW makes every step about as long as the learning rate, however large the gradient is, so that one $s$ remains.
#
# Why divide by $r$? $B A$ is a sum of $r$ pieces. With $\alpha$ fixed, each piece counts less when there are more of them;
# the paper does this so that one need not search a new learning rate for every rank. Many people set $\alpha = 2 r$ instead,
# which keeps $s$ at 2 for every rank. We do so here.

# %% [markdown]
# <a id="training"></a>
# ## Train it on Polish surnames
#
# Now the real thing: the same 120 steps as before, but only $A$ and $B$ are trained. The learning rate is higher than for
# full fine-tuning, as is usual for LoRA.

# %% tags=["predict"]
guess = None  # <- a number from 0 to 100
notes.predict("gap", "Full fine-tuning saved some bits on Polish names. How many percent of them will LoRA save?", guess)

# %% tags=["run"]
adapted.print_trainable_parameters()
lora_path = []
history = fit(adapted, learning_rate=1e-2, path=lora_path)
print(f"Polish names: base {bits(base):.2f} bits, LoRA {bits(adapted):.2f}, full fine-tuning {bits(full):.2f}")

# %% tags=["check", "learned"]
gap = (bits(base) - bits(adapted)) / (bits(base) - bits(full))
notes.reveal("gap", 100 * gap)
assert gap > 0.80, "LoRA should save at least 80 % of the bits that full fine-tuning saves"

# %% tags=["check"]
inside = [parameter.data for name, parameter in adapted.named_parameters() if "lora_" not in name]
for own, original in zip(inside, base.state_dict().values(), strict=True):
    assert np.array_equal(own, original), "the base inside the adapted model must be frozen, bit for bit"

# %% tags=["see"]
alt = (f"Two panels over the steps of training. Above, the loss falls from {history.losses[0]:.2f} to "
       f"{history.losses[-1]:.2f} nats per token. Below, the learning rate rises for 30 steps, then falls to 0.")
show(Picture(history.plot("LoRA learns Polish surnames"), alt))

# %% [markdown]
# Let the model write. Both columns use the same random numbers; only the adapter is added.

# %% tags=["run"]
def write(model, count=8):
    start = [[tokenizer.bos_token_id]] * count
    return tokenizer.batch_decode(model.generate(start, max_new_tokens=16, do_sample=True, temperature=0.7, seed=3))


print(f"{'base':14} with the adapter")
for us_name, polish_name in zip(write(base), write(adapted), strict=True):
    print(f"{us_name:14} {polish_name}")

# %% [markdown]
# <a id="rank"></a>
# ## How large must r be?
#
# The rank is the one number that decides how much is trained. Let us try some, with the same 120 steps for each.

# %% tags=["predict"]
guess = None  # <- a number, such as 0.5
notes.predict("rank", "From r = 1 to r = 16, how many bits per character are gained?", guess)

# %% tags=["run"]
def share_and_bits(model):
    trainable, total = model.get_nb_trainable_parameters()
    return 100 * trainable / total, bits(model)


sweep = {8: share_and_bits(adapted)}
for r in (1, 4, 16):
    model = get_peft_model(load(), LoraConfig(r=r, lora_alpha=2 * r, target_modules="all-linear"))
    fit(model, learning_rate=1e-2, quiet=True)
    sweep[r] = share_and_bits(model)

# %% tags=["check"]
for r, (share, needs) in sorted(sweep.items()):
    print(f"r = {r:2}: {share:5.2f} % of all numbers are trained, {needs:.2f} bits per character")
notes.reveal("rank", sweep[1][1] - sweep[16][1])
assert 12 < sweep[16][0] / sweep[1][0] < 16, "16 times the numbers, and so nearly 16 times the share"

# %% tags=["check", "learned"]
gained_first, gained_later = sweep[1][1] - sweep[4][1], sweep[4][1] - sweep[16][1]
assert bits(base) - sweep[1][1] > 0.5 * (bits(base) - bits(full)), "even r = 1 should save more than half of the bits"
assert gained_later < gained_first, "from 4 to 16 the gain should be smaller than from 1 to 4"

# %% tags=["see"]
points = sorted(sweep.values())
show(plot_curves({"LoRA, r = 1, 4, 8, 16": list(zip(*points, strict=True))}, "numbers trained, in percent of all",
                 "bits per character, Polish names", "The first few pieces bring most of it",
                 levels={"base model": bits(base), "full fine-tuning": bits(full)}))

# %% [markdown]
# Even $r = 1$, one column times one row in each layer, saves more than half of what full fine-tuning saves. The step to
# $r = 4$ helps, and after that there is little left to gain. All of this is one task and one random seed, so do not
# read anything into the last hundredth of a bit.
#
# The shares look large because the model is tiny. Its matrices have short edges. In a model of common size the same $r = 8$ is
# a fraction of a percent. Count it: a model on the device `"meta"` has shapes but no values, so it needs no memory.

# %% tags=["check"]
from tinypeft import LlamaConfig

giant = AutoModelForCausalLM.from_config(LlamaConfig(), device="meta")  # the shapes of Llama with 7 billion numbers
giant = get_peft_model(giant, LoraConfig(r=8, target_modules="all-linear"))
giant.print_trainable_parameters()
trainable, total = giant.get_nb_trainable_parameters()
assert trainable / total < 0.01 / 3, "with r = 8, LoRA should train less than a third of a percent of this model"

# %% [markdown]
# <a id="spectrum"></a>
# ## Two changes side by side
#
# Full fine-tuning changed the query projection of layer 1 by some $\Delta W$. LoRA changed the same matrix by $s B A$. Are
# the two alike? Compare their singular values $\sigma_1, \sigma_2, \dots$
#
# One number sums them up. The *effective rank* says to how many equally large pieces a matrix amounts: if three are equal and
# all others zero, it is 3; if a few are much larger than the others, it counts little more than these few.

# %% tags=["predict"]
guess = None  # <- a number from 1 to 96
notes.predict("nonzero", "How many of the 96 singular values of LoRA's change (r = 8) are not zero?", guess)

# %% tags=["run"]
lora_change = adapted.get_submodule(LAYER).delta_weight("default")  # s B A, (96, 96)
sizes = {"full fine-tuning": np.linalg.svd(change)[1], "LoRA, r = 8": np.linalg.svd(lora_change)[1]}


def effective_rank(s):
    """k if k singular values are equal and the others zero; less if some are larger than others."""
    return (s**2).sum() ** 2 / (s**4).sum()


# %% tags=["check"]
nonzero = int((sizes["LoRA, r = 8"] > 1e-5 * sizes["LoRA, r = 8"][0]).sum())
notes.reveal("nonzero", nonzero)
assert nonzero <= 8, "B A passes through 8 numbers, so it cannot have more than 8 pieces"
assert np.isclose(effective_rank(np.array([3.0, 3, 3, 0])), 3), "three equal singular values should count as 3"

# %% tags=["see"]
first = range(1, 17)
show(plot_curves({label: (first, s[:16]) for label, s in sizes.items()}, "number of the piece", "its size, the singular value",
                 "One matrix, changed in two ways"))
for label, s in sizes.items():
    print(f"{label}: effective rank {effective_rank(s):.1f}, size of the change {np.linalg.norm(s):.2f}")

# %% tags=["check", "learned"]
full_s, lora_s = sizes.values()
assert effective_rank(lora_s) < effective_rank(full_s), "LoRA's change should be concentrated in fewer pieces"
assert np.linalg.norm(lora_s) > np.linalg.norm(full_s), "and it should be the larger one, which may surprise you"

# %% [markdown]
# Two solutions, nearly as good as each other, and not the same matrix. With these settings, full fine-tuning makes many small
# changes, and LoRA makes a few large ones, larger in total. So LoRA is not full fine-tuning with the small pieces cut off. It
# is another road to a place that is about as good.

# %% [markdown]
# <a id="merge"></a>
# ## Merge, save, unplug
#
# An adapter costs a little time: two more products in each layer. If you will use one adapter only, add $s B A$ to $W_0$
# once, and the cost is gone. This is called *merging*.

# %% tags=["predict"]
guess = None  # <- "exactly 0", "some millionths" or "some tenths"
notes.predict("merge", "How far are the merged model's scores from the adapted one's, as a share of the largest?", guess,
              ["exactly 0", "some millionths", "some tenths"])

# %% tags=["run"]
def merge_error(model):
    apart = model(**batch).logits.data
    model.merge_adapter()
    together = model(**batch).logits.data
    model.unmerge_adapter()
    return np.abs(together - apart).max() / np.abs(apart).max()  # as a share of the largest score


print(f"largest difference, as a share of the largest score: {merge_error(adapted):.1e}")

# %% tags=["check"]
inner = adapted.get_submodule(LAYER)
trained_A, trained_B = inner.lora_A["default"].weight.data, inner.lora_B["default"].weight.data
adapted.merge_adapter()
merged_weight = inner.base_layer.weight.data
adapted.unmerge_adapter()
assert np.array_equal(inner.base_layer.weight.data, W0), "taken out again, W0 must be there bit for bit"


# %% tags=["check"]
def check_merged_weight(s):
    error = np.abs(W0 + s * trained_B @ trained_A - merged_weight).max()
    assert error < 1e-5, f"the merged weight must be W0 + {s:g} B A; it differs by up to {error:.2g}"


check_merged_weight(s=16 / 8)

# %% [markdown]
# **Break it.** Merge without $\alpha / r$, a mistake easily made when one merges by hand.

# %% tags=["break"]
with broken("merged without alpha / r"):
    check_merged_weight(s=1)

# %% tags=["check"]
def check_merge(model):
    error = merge_error(model)
    assert error < 1e-4, f"merged and unmerged differ by {error:.2g} of the largest score: too much for rounding"
    return error


in_float32 = check_merge(adapted)
notes.reveal("merge", "some millionths" if in_float32 > 0 else "exactly 0")

# %% [markdown]
# On paper both are equal: $x (W_0 + s B A)^\top = x W_0^\top + s\, (x A^\top) B^\top$. But the computer rounds every
# result, and the two sides round different ones. A `float32` number carries about seven digits, so some millionths remain.
# If this is the reason, numbers with twice as many digits must shrink them. We test that as soon as the adapter is saved.
#
# **Save and reload.** Only $A$ and $B$ go into the file.

# %% tags=["run"]
from pathlib import Path
from tempfile import TemporaryDirectory

from tinypeft import PeftModel

temporary = TemporaryDirectory()  # deleted when the notebook's kernel stops
folder = Path(temporary.name)
adapted.save_pretrained(folder)
reloaded = PeftModel.from_pretrained(load(), folder)
for file in sorted(folder.iterdir()):
    print(f"{file.name}: {file.stat().st_size:,} bytes")

# %% tags=["check"]
trainable, _ = adapted.get_nb_trainable_parameters()
size, whole = (folder / "adapter_model.safetensors").stat().st_size, 4 * sum(p.size for p in base.parameters())
print(f"{trainable:,} numbers of 4 bytes: {4 * trainable:,} bytes, and names and shapes. The whole model: {whole:,} bytes")
assert 4 * trainable < size < 4.2 * trainable, "the file should hold A and B, and little else"
assert np.array_equal(reloaded(**batch).logits.data, adapted(**batch).logits.data), "a reloaded adapter must give the same bits"

# %% tags=["check"]
precise = AutoModelForCausalLM.from_pretrained("tinypeft/surnames", dtype="float64")
in_float64 = check_merge(PeftModel.from_pretrained(precise, folder))
print(f"merging changes scores by {in_float32:.1e} in float32, by {in_float64:.1e} in float64")
assert in_float64 < in_float32 / 1e6, "if rounding is the reason, twice the digits must shrink the difference"

# %% [markdown]
# **Unplug.** As long as nothing is merged, $W_0$ is untouched inside. Switch the adapter off, and the base is back.

# %% tags=["check"]
with reloaded.disable_adapter():
    check_start(reloaded)  # the check from before: scores equal to the base's, difference 0.0
plain = reloaded.unload()
for name, weight in base.state_dict().items():
    assert np.array_equal(plain.state_dict()[name], weight), f"{name} must be untouched"

# %% [markdown]
# <a id="errors"></a>
# ## Two sentences to doubt
#
# You will meet these in tutorials. Both can be tested.
#
# **"LoRA significantly reduces forgetting, because most weights are frozen."** Teach the model Polish names, and it gets
# worse at US names. Full fine-tuning did that. How much of the damage does LoRA avoid?

# %% tags=["predict"]
guess = None  # <- a number: 0 for no damage, 100 for as much as full fine-tuning
notes.predict("forgetting", "LoRA's damage to US names, in percent of full fine-tuning's?", guess)

# %% tags=["run"]
worse = {"full fine-tuning": bits(full, american) - bits(base, american),
         "LoRA, plugged in": bits(adapted, american) - bits(base, american)}
with adapted.disable_adapter():
    worse["LoRA, unplugged"] = bits(adapted, american) - bits(base, american)
for label, rise in worse.items():
    print(f"{label}: US names need {rise:.2f} bits per character more than with the base")

# %% tags=["check"]
merged = PeftModel.from_pretrained(load(), folder).merge_and_unload()
moved = np.mean(merged.state_dict()[f"{PATH}.weight"] != W0)
print(f"numbers of the merged matrix that differ from the frozen one: {moved:.1%}")
assert worse["LoRA, unplugged"] == 0.0, "unplugged, it must be the base exactly"
assert moved > 0.99, "B A reaches every number of the matrix, though W0 is frozen"

# %% tags=["check", "learned"]
notes.reveal("forgetting", 100 * worse["LoRA, plugged in"] / worse["full fine-tuning"])
assert worse["LoRA, plugged in"] > 0.7 * worse["full fine-tuning"], "plugged in, LoRA should forget more than 70 % as much"
polish_bits, us_bits = np.array(sorted(full_path)).T  # full fine-tuning on its way, read off where it had learned as much
equal = np.interp(bits(adapted), polish_bits, us_bits) - bits(base, american)
print(f"at equal learning: {worse['LoRA, plugged in']:.2f} bits for LoRA, {equal:.2f} for full fine-tuning")
assert worse["LoRA, plugged in"] > 0.7 * equal, "at equal learning, LoRA should forget more than 70 % as much, too"

# %% tags=["see"]
start = (bits(base), bits(base, american))
paths = {label: tuple(zip(start, *path, strict=True)) for label, path in
         {"full fine-tuning": full_path, "LoRA, r = 8": lora_path}.items()}
show(plot_curves(paths, "bits per character, Polish names (learning goes left)", "bits per character, US names",
                 "What is learned, and what is forgotten on the way"))

# %% [markdown]
# While it is plugged in, LoRA forgets a little less than full fine-tuning, but more than 70 % as much. At the end that is
# so at equal learning, too; earlier on the way, for as much Polish, LoRA had forgotten more (its curve lies higher). And the
# stated reason does not hold. Freezing $W_0$ does not protect the output, since $B A$ moves more than 99 % of
# the numbers that the layer computes with. (One small model, one task: measure it for yours.)
#
# What LoRA does give is something else. The damage can be *undone*. Unplugged, it is 0.0. Merge, and throw the base away,
# and you lose that.
#
# **"With alpha = 1 and r = 2, the output is [3.045, 7.06]."** This is a worked example with the numbers below. Every product
# and sum in it is right. Can you find what is wrong?

# %% tags=["run"]
example_W0, example_x = np.array([[1, 2], [3, 4]]), np.array([1, 1])
example_A, example_B = np.array([[0.1, 0.2]]), np.array([[0.3], [0.4]])
print("with alpha / r = 1 / 2:", example_W0 @ example_x + 1 / 2 * example_B @ (example_A @ example_x))

# %% tags=["check"]
rank = np.linalg.matrix_rank(example_B @ example_A)
output = example_W0 @ example_x + 1 / rank * example_B @ (example_A @ example_x)
print(f"A has {len(example_A)} row, so r = {rank} and alpha / r = {1 / rank:g}: the output is {output}")
assert rank == 1, "r is the number of rows of A; here it is not 2"
assert np.allclose(output, [3.09, 7.12]), "with alpha / r = 1, and not a half"
assert not np.allclose(output, [3.045, 7.06]), "the output that circulates"

# %% [markdown]
# $r$ is not a setting beside $A$ and $B$: it is their common edge. $A$ has one row, so $r = 1$, and the output is
# $[3.09, 7.12]$.

# %% [markdown]
# <a id="make"></a>
# ## Make it yourself
#
# Write the two functions that LoRA is made of. Replace the lines that raise `NotImplementedError`, run the cell, then run the
# one below it. It checks shapes first, then values. If it knows your mistake, it names it.

# %% tags=["make"]
def lora_forward(x, W0, A, B, alpha):
    """x (..., d_in), W0 (d_out, d_in), A (r, d_in), B (d_out, r), alpha a number -> (..., d_out)."""
    raise NotImplementedError


def merge(W0, A, B, alpha):
    """The one matrix, (d_out, d_in), that does the same; W0 itself stays as it is."""
    raise NotImplementedError


# %% tags=["make", "long"] jupyter={"source_hidden": true}
# The checker. It holds right and wrong answers: try your own first.
def add(W0, A, B, s):
    return W0 + s * B @ A


wrong_weights = {
    "the scale alpha / r is missing": lambda W0, A, B, alpha: add(W0, A, B, 1),
    "the scale is alpha instead of alpha / r": lambda W0, A, B, alpha: add(W0, A, B, alpha),
    "the scale is r / alpha": lambda W0, A, B, alpha: add(W0, A, B, len(A) / alpha),
    "the scale is 1 / r, without alpha": lambda W0, A, B, alpha: add(W0, A, B, 1 / len(A)),
    "r is taken from the wrong edge of A": lambda W0, A, B, alpha: add(W0, A, B, alpha / A.shape[1]),
    "the scale is applied to W0 as well": lambda W0, A, B, alpha: alpha / len(A) * add(W0, A, B, 1),
    "W0 is left out": lambda W0, A, B, alpha: add(0, A, B, alpha / len(A)),
    "B A is left out": lambda W0, A, B, alpha: W0,
    "B A is subtracted": lambda W0, A, B, alpha: add(W0, A, B, -alpha / len(A)),
    "A and B are swapped": lambda W0, A, B, alpha: W0 + alpha / len(A) * A @ B,
    "B A is transposed": lambda W0, A, B, alpha: W0 + alpha / len(A) * (B @ A).T,
    "W0 is transposed": lambda W0, A, B, alpha: W0.T + alpha / len(A) * B @ A,
}


def forward_of(make_weight):
    return lambda x, W0, A, B, alpha: x @ make_weight(W0, A, B, alpha).T


wrong_forwards = {mistake: forward_of(make_weight) for mistake, make_weight in wrong_weights.items()}
wrong_forwards["the weight is not transposed: a row x gives x W^T"] = lambda x, W0, A, B, alpha: (
    x @ add(W0, A, B, alpha / len(A)))
draw = np.random.default_rng(5).standard_normal
cases = [{"x": draw((*lead, d_in)), "W0": draw((d_out, d_in)), "A": draw((r, d_in)), "B": draw((d_out, r)), "alpha": alpha}
         for lead, d_out, d_in, r, alpha in [((5,), 3, 7, 2, 16), ((2, 3), 4, 4, 2, 3), ((), 6, 2, 1, 8), ((4,), 3, 3, 3, 0.5)]]
weights_only = [{key: value for key, value in case.items() if key != "x"} for case in cases]
print(self_check(lora_forward, forward_of(lambda W0, A, B, alpha: add(W0, A, B, alpha / len(A))), cases, wrong_forwards))
print(self_check(merge, lambda W0, A, B, alpha: add(W0, A, B, alpha / len(A)), weights_only, wrong_weights))

# %% [markdown]
# <a id="keep"></a>
# ## What to keep
#
# - The change that fine-tuning makes is nearly of low rank. LoRA trains one that *is*: $W = W_0 + (\alpha / r) B A$.
# - $r (d_{in} + d_{out})$ numbers are trained in place of $d_{in} d_{out}$.
# - $A$ random and $B = 0$: the start is the base exactly, and the first step moves $B$ only. Both zero would never learn.
# - Merged, LoRA costs nothing to run and gives the same answers, up to rounding. Unplugged, the base is back bit for bit.
#
# And this is how well you guessed:

# %% tags=["run"]
print(notes)

# %% [markdown]
# In the next lesson (not written yet): how few numbers can a task be learned with, if one does not even choose which?
