"""The text encoder of the model of the world with walls, and what it is trained to say of a caption.

A caption is at most 26 words long, of a vocabulary of 22, so the tokenizer has one token for each word. `Reader` is a
`UMT5EncoderModel` with heads that say at each word of a phrase what the phrase tells: its colour, shape, legs and
speed, and which object of the caption it is. Once it says that rightly it is frozen, and the heads are dropped.
"""

from collections.abc import Sequence

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from actors.tiny.walls import world

LENGTH = 32  # tokens; `max_sequence_length` of every call of the pipeline
WIDTH = 128  # of an embedding
GRAMMAR = ("a", "and", "moving", "standing", "still", "then", "slowly", "fast", "wall")
WORDS = ("<pad>", "</s>", "<unk>", *GRAMMAR, *world.DIRECTIONS, *world.SHAPES, *world.COLOURS)
NO_LEG = ("", *world.DIRECTIONS)
ANSWERS = (tuple(world.COLOURS), world.SHAPES, NO_LEG, NO_LEG, tuple(world.SPEEDS), ("0", "1", "2", "wall"))


def tokenizer() -> PreTrainedTokenizerFast:
    """One token for each word of the world's captions, and one for the end."""
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.normalizer = normalizers.Lowercase()
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        padding_side="right",
        model_max_length=LENGTH,
    )


def told(text: str) -> list[tuple[int, ...]]:
    """For each word of a caption the index of each of ANSWERS, or -100 where the word's phrase does not tell it."""
    caption = world.parse(text)
    rows: list[tuple[int, ...]] = []
    for which, o in enumerate(caption.objects):
        first, second = (*o.legs, "", "")[:2]
        said = (o.colour, o.shape, first, second, o.speed, str(which))
        row = tuple(answers.index(word) for answers, word in zip(ANSWERS, said, strict=True))
        rows += [row] * len(str(o).split()) + [(-100,) * len(ANSWERS)]  # and "and"
    if caption.wall:
        rows += [(*(-100,) * (len(ANSWERS) - 1), 3)] * 2
    return rows[: len(text.split())]


class Reader(nn.Module):
    """The encoder with a head for each of ANSWERS."""

    def __init__(self) -> None:
        super().__init__()
        self.tokenizer = tokenizer()
        self.encoder = UMT5EncoderModel(
            UMT5Config(
                vocab_size=len(WORDS),
                d_model=WIDTH,
                d_kv=32,
                num_heads=4,
                d_ff=256,
                num_layers=3,
                dropout_rate=0.0,
                tie_word_embeddings=True,
                pad_token_id=0,
                eos_token_id=1,
            )
        )
        self.heads = nn.ModuleList(nn.Linear(WIDTH, len(answers)) for answers in ANSWERS)

    def embed(self, captions: Sequence[str]) -> Tensor:
        """Embeddings as `WanPipeline` makes them: float32 (n, LENGTH, WIDTH), zero beyond each caption's end."""
        tokens = self.tokenizer(list(captions), padding="max_length", max_length=LENGTH, return_tensors="pt")
        mask = tokens.attention_mask
        return self.encoder(tokens.input_ids, mask).last_hidden_state * mask.unsqueeze(-1)

    def loss(self, captions: Sequence[str]) -> tuple[Tensor, float]:
        """The cross-entropy of the heads, and the share of captions of which they say every word rightly."""
        truth = torch.full((len(captions), LENGTH, len(ANSWERS)), -100)
        for i, text in enumerate(captions):
            rows = told(text)
            truth[i, : len(rows)] = torch.tensor(rows)
        states = self.embed(captions)
        said = [head(states).transpose(1, 2) for head in self.heads]
        right = [((s.argmax(1) == t) | (t < 0)).all(1) for s, t in zip(said, truth.unbind(-1), strict=True)]
        losses = [F.cross_entropy(s, t) for s, t in zip(said, truth.unbind(-1), strict=True)]
        return torch.stack(losses).sum(), torch.stack(right).all(0).float().mean().item()
