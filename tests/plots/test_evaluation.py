"""The plots of page 06."""

from plots.support import check, frame, texts

from nbutils.plots import evaluation


def test_task_scores_name_tasks_and_metrics_in_words():
    rows = [("held-out-tasks Retrieval", "before", "ndcg_at_10", 0.4)]
    rows += [("held-out-tasks Retrieval", "after", "ndcg_at_10", 0.5)]
    rows += [("held-out-family STS", "after", "cosine_spearman", 0.9)]
    rows += [("FiQA", "after", "ndcg_at_10", 0.3)]
    plot = evaluation.task_scores(frame("task model metric score", *rows))
    told = "held-out-tasks Retrieval: before 0.400, after 0.500; FiQA: after 0.300."
    ndcg, spearman = check(plot, told).axes
    assert texts(ndcg.get_yticklabels()) == ["held-out-tasks Retrieval", "FiQA"]
    assert ndcg.get_xlabel() == "NDCG@10"
    assert texts(spearman.get_yticklabels()) == ["held-out-family STS"]
    assert ndcg.get_legend() and not spearman.get_legend()
    assert "0.9" not in plot[1]  # only NDCG is told; the rest is in the table


def test_gains_have_signs_and_intervals_and_the_papers_own_average_a_mark():
    gains = frame("name mean", ("tasks", 0.4), ("family", -0.1), spread="mean")
    told = "tasks +0.400 (+0.350 to +0.450), family -0.100 (-0.150 to -0.050)"
    check(evaluation.paired_gains(gains), told)
    rows = ("synthetic", "E5", 63.1), ("synthetic", "MGH", 64.5), ("both", "MGH", 67.0)
    averages = frame("training_data model average", *rows)
    told = "synthetic: E5 63.1, MGH 64.5; both: MGH 67.0."
    axis = check(evaluation.published_average(averages), told).axes[0]
    assert texts(axis.get_legend().get_texts()) == ["others", "the paper's own"]


def test_claims_and_splits_have_a_line_each():
    rows = [("2", "a − b", "NDCG@10", "holds", 0.1)]
    rows += [("2", "perc_pos − abs", "NDCG@10", "open", 0.0)]
    rows += [("1", "N1 − N2", "cosine", "holds", 0.1)]
    table = frame("number comparison unit outcome value", *rows, spread="value")
    (axis,) = check(evaluation.claims_forest(table), "1 holds, 0 fails, 1 open").axes
    assert texts(axis.get_yticklabels()) == ["2: a − b", "2: PercPos − Abs"]
    marks = [box.lines[0].get_markerfacecolor() for box in axis.containers]
    assert marks[0] != "white" and marks[1] == "white"  # what decides is filled
    rows = ("naive", "all", 0.1), ("naive", "seen", 0.2)
    gains = frame("negatives claims mean", *rows, spread="mean")
    told = "all: Naive +0.100 (+0.050 to +0.150); seen: Naive +0.200"
    check(evaluation.gains_by_split(gains), told)
