"""Functions that the task files name."""


def only_nature(rows):
    return rows.filter(lambda row: row["kind"] == "nature" and len(row["choices"]["text"]) == 4)


def only_science(rows):
    return rows.filter(lambda row: row["kind"] == "science" and len(row["choices"]["text"]) == 4)


def gap_index(row):
    return int(row["answer"]) - 1


def gap_rest(row):
    return row["sentence"].split("_")[1].strip()


def gap_starts(row):
    return [row["sentence"].split("_")[0] + row[name] for name in ("option1", "option2")]


def partial_credit(row, results):
    return {"acc": 0.25 + 0.5 * (results[0][0] > results[1][0])}
