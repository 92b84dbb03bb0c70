"""Columns of TRL, Alpaca and ShareGPT: the examples of TRL's page on data set formats, and the rows that are none."""

from typing import Any

import pytest

from handscroll.text.columns import KINDS, kind_of, normalised, row_text

USER = {"role": "user", "content": "What color is the sky?"}
BLUE = {"role": "assistant", "content": "It is blue."}
GREEN = {"role": "assistant", "content": "It is green."}

# https://huggingface.co/docs/trl/dataset_formats, standard and conversational; the columns and what they mean.
ROWS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"text": "The sky is blue.", "id": 7}, {"text": "The sky is blue."}),
    ({"messages": [USER, BLUE]}, {"messages": [USER, BLUE]}),
    ({"prompt": "The sky is", "completion": " blue."}, {"prompt": "The sky is", "completion": " blue."}),
    ({"prompt": [USER], "completion": [BLUE]}, {"messages": [USER, BLUE], "given": 1}),
    (
        {"prompt": "The sky is", "chosen": " blue.", "rejected": " green."},
        {"prompt": "The sky is", "chosen": " blue.", "rejected": " green."},
    ),
    (
        {"chosen": "The sky is blue.", "rejected": "The sky is green."},
        {"prompt": "The sky is", "chosen": " blue.", "rejected": " green."},
    ),
    (
        {"prompt": [USER], "chosen": [BLUE], "rejected": [GREEN]},
        {"prompt": [USER], "chosen": [BLUE], "rejected": [GREEN]},
    ),
    (
        {"chosen": [USER, BLUE], "rejected": [USER, GREEN]},
        {"prompt": [USER], "chosen": [BLUE], "rejected": [GREEN]},
    ),
    # As UltraFeedback is written: the prompt as text, and again in both answers.
    (
        {"prompt": USER["content"], "chosen": [USER, BLUE], "rejected": [USER, GREEN]},
        {"prompt": [USER], "chosen": [BLUE], "rejected": [GREEN]},
    ),
    (
        {"prompt": USER["content"], "chosen": [BLUE], "rejected": [GREEN]},
        {"prompt": [USER], "chosen": [BLUE], "rejected": [GREEN]},
    ),
    # Alpaca's own rows hold the rendered text besides.
    (
        {"instruction": "Add.", "input": "1 2", "output": "3", "text": "Below is an instruction"},
        {"messages": [{"role": "user", "content": "Add.\n\n1 2"}, {"role": "assistant", "content": "3"}]},
    ),
    (
        {"instruction": "Greet.", "input": "", "output": "Hi."},
        {"messages": [{"role": "user", "content": "Greet."}, {"role": "assistant", "content": "Hi."}]},
    ),
    (
        {"conversations": [{"from": "human", "value": "你好"}, {"from": "gpt", "value": "Hi."}]},
        {"messages": [{"role": "user", "content": "你好"}, {"role": "assistant", "content": "Hi."}]},
    ),
    ({"conversations": [USER, BLUE]}, {"messages": [USER, BLUE]}),
    # Rows of a table have all columns, most of them empty.
    ({"messages": None, "text": "The sky", "chosen": None}, {"text": "The sky"}),
]


@pytest.mark.parametrize(("record", "row"), ROWS)
def test_rows(record: dict[str, Any], row: dict[str, Any]) -> None:
    assert normalised(record) == row
    assert kind_of(row) in KINDS


def test_kinds_and_texts() -> None:
    rows = [row for _, row in ROWS]
    assert [kind_of(rows[number]) for number in (0, 1, 2, 3, 4)] == [
        "text",
        "messages",
        "completion",
        "messages",
        "preference",
    ]
    assert row_text(rows[2]) == "The sky is blue."
    assert row_text(rows[3]) == "What color is the sky?\nIt is blue."
    assert row_text(rows[6]) == "What color is the sky?\nIt is blue."


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (
            {"body": "a", "id": 1},
            "columns are 'body', 'id'; known are: messages; chosen, rejected; prompt, compl",
        ),
        ({}, "columns are none"),
        ({"prompt": "only"}, "columns are 'prompt'; known are"),
        ({"text": 5}, "text is 5; it must be a string"),
        ({"messages": []}, "at least one message"),
        ({"messages": "[{}]"}, "messages is .*; it must be a list"),
        ({"messages": [{"role": "user"}]}, "message 1 of messages .* must have 'role' and 'content'"),
        ({"prompt": "a", "completion": "b", "label": True}, "judgements of single answers"),
        ({"prompt": "a", "completion": " "}, "completion is blank"),
        ({"prompt": [USER], "completion": "b"}, "completion is 'b'; it must be a list"),
        ({"chosen": "a", "rejected": "b"}, "begin differently and there is no prompt"),
        ({"prompt": "q", "chosen": "a", "rejected": "a"}, "nothing to prefer"),
        ({"chosen": [USER, BLUE], "rejected": [USER, BLUE]}, "nothing to prefer"),
        ({"prompt": 3, "chosen": "a", "rejected": "b"}, "prompt is 3"),
        ({"instruction": "a", "output": 3}, "output is 3"),
        (
            {"conversations": [{"from": "pirate", "value": "arr"}]},
            "turn 1 .* from 'pirate'; known are human, user",
        ),
        ({"conversations": [{"from": "human"}]}, "turn 1 .* must have 'from' and 'value'"),
        ({"conversations": "hello"}, "conversations is 'hello'"),
    ],
)
def test_rows_that_are_none(record: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        normalised(record)
