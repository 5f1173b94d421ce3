"""The plots of page 06."""

from plots.support import check, frame, texts

from nbutils.plots import evaluation


def test_task_scores_name_tasks_and_metrics_in_words():
    scores = frame(
        "task model metric score",
        ("LabHeldOutTasksRetrieval", "before", "ndcg_at_10", 0.4),
        ("LabHeldOutTasksRetrieval", "after", "ndcg_at_10", 0.5),
        ("LabHeldOutFamilySTS", "after", "cosine_spearman", 0.9),
        ("FiQA", "after", "ndcg_at_10", 0.3),
    )
    plot = evaluation.task_scores(scores)
    told = "held out tasks retrieval: before 0.400, after 0.500; FiQA: after 0.300."
    rows = texts(check(plot, told).axes[0].get_yticklabels())
    assert rows[1:] == ["held out family STS\nSpearman correlation", "FiQA\nNDCG@10"]
    assert "0.9" not in plot[1]  # only NDCG is told; the rest is in the table


def test_gains_have_signs_and_intervals_and_the_papers_own_average_a_mark():
    gains = frame("name mean", ("tasks", 0.4), ("family", -0.1), spread="mean")
    told = "tasks +0.400 (+0.350 to +0.450), family -0.100 (-0.150 to -0.050)"
    check(evaluation.paired_gains(gains), told)
    averages = frame("model average", ("E5", 63.1), ("MGH", 64.5))
    told = "Synthetic, published MTEB averages: E5 63.1, MGH 64.5"
    axis = check(evaluation.published_average(averages, "Synthetic"), told).axes[0]
    assert texts(axis.get_legend().get_texts()) == ["others", "the paper's own"]
