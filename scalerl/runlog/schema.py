"""The schema of a run folder, defined once: names of files, compute axes, and the fields of rows.

`docs/log-format.md` describes every field, and a test holds it against the tables below.
"""

from __future__ import annotations

SCHEMA_VERSION = 1
HEADER_FILE, LOG_FILE, SAMPLES_FILE = "run.json", "log.jsonl", "samples.jsonl"
MODEL_FOLDER, BEST_FOLDER, CHECKPOINT_FOLDER, LOST_FOLDER = "model", "best", "checkpoints", "lost"

# Cumulative over the run, in every step and eval row: each can be the x of a curve.
COMPUTE_AXES: dict[str, str] = {
    "gpu_hours": "metered wall time x devices held, in hours; idle time included, evaluation and checkpoints not",
    "cpu_s": "CPU-seconds over the same interval, of a generator in a process of its own, too",
    "tokens_generated": "completion tokens sampled for training, those of a forced phrase included",
    "tokens_trained": "completion tokens that entered the loss",
    "flops": "2 N a token run forward, 6 N a token also run backward, N = weights that multiply it; attention left out"
    "; with adapters (LoRA) 4 N and 2 for every weight of an adapted matrix, and the products that merge them",
    "step": "updates tried so far, skipped ones included",
}
STEP_FIELDS: dict[str, str] = {
    "attempt": "1 for the first process that worked on this run, one more after each resume",
    "epoch": "passes over the train prompts so far",
    "skipped": "true if no update was made: no prompt was left after the filter, or an FP16 gradient overflowed",
    "generate_s": "wall seconds generating, or waiting for a generator in a process of its own",
    "prefill_s": "wall seconds in which a generator ran prompts and put them into slots, the mean over several; part "
    "of generate_s, or of generator_busy_s; not with vLLM",
    "generator_busy_s": "wall seconds that a generator in a process of its own worked, the mean over several; only "
    "where there is one, as the six below",
    "weight_sync_s": "wall seconds in which new weights were handed over; they are part of train_s",
    "generator_sync_s": "wall seconds in which a generator took weights over, the mean; part of generator_busy_s",
    "generator_gpu_hours": "share of gpu_hours that is held by generators, from the start of the run",
    "learner_gpu_hours": "share of gpu_hours that is held by the trainer; a device that both use is half each's",
    "generator_idle_share": "share of the wall time since the last row in which a generator did nothing, the mean",
    "learner_idle_share": "share of the wall time since the last row in which the trainer waited for completions",
    "score_s": "wall seconds scoring",
    "train_s": "wall seconds in loss, gradient and update",
    "reward_sum": "sum of the rewards of all completions",
    "reward_count": "number of completions",
    "reward_var": "population variance of their rewards",
    "reward_errors": "completions whose score failed (an error, a limit, no number); they count as wrong",
    "prompts": "prompts drawn for this update",
    "zero_variance_share": "share of those prompts whose completions all got one reward",
    "filtered_share": "share of those prompts that the filter left out of the update",
    "retired": "prompts that are never drawn again",
    "lag_min": "smallest lag of a token of these completions: updates made when it trains - when it was sampled",
    "lag_mean": "mean lag of their tokens",
    "lag_max": "largest lag",
    "versions_mean": "mean number of policy versions that a completion was sampled from",
    "versions_max": "largest number of versions in one completion",
    "mixed_share": "share of the completions sampled from two versions or more",
    "in_flight": "completions begun and not finished when the update was made",
    "interrupted_share": "share of the completions whose thinking was ended by force",
    "forced_tokens": "tokens of these completions that were forced; they carry no gradient",
    "penalty_mean": "mean over the completions of the length penalty in their rewards, 0 to -1",
    "length_mean": "mean completion length, in tokens, end token included",
    "truncation_rate": "share of completions cut at the length limit",
    "entropy": "mean entropy, in nats, of the distributions at the completions' tokens, forced ones included",
    "ratio_mean": "mean importance ratio pi_train / pi_generate over the tokens in the loss",
    "ratio_max": "largest importance ratio",
    "clipped_share": "share of tokens in the loss whose importance ratio was clipped",
    "logprob_diff_mean": "mean |log pi_train - log pi_generate| over the tokens in the loss",
    "logprob_diff_max": "largest |log pi_train - log pi_generate|",
    "loss": "value of the loss",
    "grad_norm": "norm of the gradient before clipping",
    "learning_rate": "learning rate of this update",
}
EVAL_FIELDS: dict[str, str] = {
    "attempt": "as in step rows",
    "pass_rate": "mean over prompts and samples of correct (mean@k), a fraction",
    "n_prompts": "held-out prompts",
    "k": "completions a prompt",
    "correct": "correct completions of each prompt, in the order of the prompt set",
    "prompt_set": "hash of the evaluation prompts and answers",
    "temperature": "sampling temperature",
    "max_new_tokens": "length limit of a completion, in tokens",
    "sampling_seed": "seed of the sampling noise",
    "length_mean": "mean completion length, in tokens",
    "truncation_rate": "share of completions cut at the length limit",
    "reward_errors": "completions whose score failed; they count as wrong",
    "evaluate_s": "wall seconds of this evaluation, not part of gpu_hours",
}
# Scores of a saved policy on any data set: a kind of its own, so that no reader takes one for a point of the run's
# curve. They have the compute axes of the policy and the fields of eval rows, too, but for `attempt`.
DOWNSTREAM_FIELDS: dict[str, str] = {
    "data_set": "name of the data set, the same for every policy that was asked it",
    "model": "what was evaluated, as it was named",
    "model_sha256": "its hash; null where it has none",
    "time": "when it was evaluated, UTC",
}
# What differs between two runs of one configuration and seed; every other field is equal. A run that was resumed
# differs from one that was not in `attempt`, too, and has an event that says so.
TIME_FIELDS = frozenset(
    {
        *("gpu_hours", "cpu_s", "generate_s", "prefill_s", "score_s", "train_s", "evaluate_s", "time"),
        *("generator_busy_s", "weight_sync_s", "generator_sync_s", "generator_gpu_hours", "learner_gpu_hours"),
        *("generator_idle_share", "learner_idle_share"),
    }
)
