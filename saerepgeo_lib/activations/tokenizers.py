"""A model's tokenizer held against its files: no token that they do not have, no other reading."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase
from transformers.utils.hub import cached_file

from saerepgeo_lib.errors import UserError, quoted
from saerepgeo_lib.files import until_changed

logger = logging.getLogger(__name__)
_ROLES = ("bos_token", "eos_token", "pad_token", "cls_token", "sep_token", "unk_token")


@until_changed
def _read(path: Path) -> Tokenizer:
    file = Tokenizer.from_file(str(path))
    file.no_truncation()
    file.no_padding()
    return file


def tokenizer_file(tokenizer: Any) -> Tokenizer | None:
    """What `tokenizer.json` says by itself, for a tokenizer of transformers; None without the file.

    A vocabulary in another format has nothing to be compared with: transformers' reading of it is
    then the only one.
    """
    if not isinstance(tokenizer, PreTrainedTokenizerBase) or not tokenizer.name_or_path:
        return None
    try:
        path = cached_file(
            tokenizer.name_or_path, "tokenizer.json", local_files_only=True,
            revision=tokenizer.init_kwargs.get("revision"),
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )  # fmt: skip
    except OSError:  # neither a folder nor a name on the hub: made in memory
        return None
    return _read(Path(path)) if path else None


def forget_invented_tokens(tokenizer: Any, *, n_rows: int, bos_id: int | None = None) -> None:
    """Take back the special tokens that TransformerLens or transformers made up.

    A role (BOS, padding, ...) stays if the files give it a token, number it as the tokenizer does,
    and one of the embedding's `n_rows` rows is that token's. Where they name no BOS, but the
    model's configuration says (`bos_id`) which of the special tokens it is, a warning tells so.
    Where they name no unknown token, but the vocabulary has one for what it lacks, it is that.
    """
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        return
    file, given = tokenizer_file(tokenizer), tokenizer.init_kwargs
    declared = given.get("added_tokens_decoder") or {}
    for role in _ROLES:
        token, number = given.get(role), getattr(tokenizer, f"{role}_id")
        known = token is not None and number is not None and number < n_rows
        if known and file is not None:
            known = file.token_to_id(str(token)) == number
        elif known:
            known = number < tokenizer.vocab_size or number in declared
        if not known:
            setattr(tokenizer, role, None)
    if tokenizer.bos_token is None and bos_id in tokenizer.all_special_ids:
        tokenizer.bos_token = tokenizer.convert_ids_to_tokens(bos_id)
        logger.warning(
            "the tokenizer names no BOS token; %r is taken for it, since the model's configuration "
            "says bos_token_id %d", tokenizer.bos_token, bos_id,
        )  # fmt: skip
    if tokenizer.unk_token is None and (unknown := _unknown_token(tokenizer)):
        tokenizer.unk_token = unknown


def _unknown_token(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """What a word becomes that is not in the vocabulary, as the vocabulary itself says it."""
    if (backend := getattr(tokenizer, "backend_tokenizer", None)) is None:
        return None
    vocabulary = json.loads(backend.to_str())["model"]
    if (number := vocabulary.get("unk_id")) is not None:  # of a Unigram vocabulary, a list of pairs
        return str(vocabulary["vocab"][number][0])
    token = vocabulary.get("unk_token")
    return token if token and backend.token_to_id(token) is not None else None


def check_reading(tokenizer: Any, texts: Sequence[str]) -> None:
    """Refuse a tokenizer that reads one of the texts otherwise than its `tokenizer.json` alone."""
    if (file := tokenizer_file(tokenizer)) is None:
        return
    ids = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    alone = file.encode_batch(list(texts), add_special_tokens=False)
    for text, found, read in zip(texts, ids, alone, strict=True):
        if found == read.ids:
            continue
        t = 0
        while found[t : t + 1] == read.ids[t : t + 1]:
            t += 1
        start = read.offsets[t][0] if t < len(read) else len(text)
        word = (text[text.rfind(" ", 0, start + 1) + 1 :].split() or [""])[0]
        here, there = tokenizer.convert_ids_to_tokens(found), read.tokens
        raise UserError(
            f"transformers, as {type(tokenizer).__name__}, reads {quoted(text)} otherwise than "
            f"the model's own tokenizer.json, first at {word!r}: "
            f"{'|'.join(here[t : t + 4])} instead of {'|'.join(there[t : t + 4])}; put "
            '"tokenizer_class": "PreTrainedTokenizerFast" into tokenizer_config.json of '
            f"{tokenizer.name_or_path} (or of a copy of that folder, named as model_name); if it "
            "is there already, try another version of transformers"
        )
