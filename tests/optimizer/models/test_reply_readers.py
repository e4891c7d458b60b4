"""Tests that the names of reply readers stay as they are: with other names, old journals would be paid for again."""

from optimizer.core.model_tables import JudgeTable
from optimizer.models.task_model import read_chat, read_completion, read_echo
from optimizer.rewards.judge_protocol import (
    choice_reader,
    rating_reader,
    read_digit,
    read_preference,
    read_preference_letter,
)
from optimizer.stages.writer_protocol import read_answers, read_prompts


def test_names_of_reply_readers_do_not_change() -> None:
    judge = {choice_reader(JudgeTable()).name, rating_reader([], JudgeTable()).name, read_preference.name}
    assert judge == {
        "optimizer.judge.read_choice",
        "optimizer.judge.read_verdict",
        "optimizer.judge.read_preference",
    }
    letters = {read_digit.name, read_preference_letter.name}
    assert letters == {"optimizer.judge.read_digit", "optimizer.judge.read_preference_letter"}
    task = {read_completion.name, read_chat.name, read_echo.name}
    assert task == {"optimizer.task.read_completion", "optimizer.task.read_chat", "optimizer.task.read_echo"}
    stages = {read_answers.name, read_prompts.name}
    assert stages == {
        "optimizer.examples.read_answers",
        "optimizer.prompt.read_prompts",
    }
