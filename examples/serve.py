"""A server of sentence embeddings: `OMP_NUM_THREADS=1 CONCURRENT=2 MODEL=FOLDER uvicorn serve:app`.

A process has one model, which its threads share.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import torch
from fastapi import FastAPI
from pydantic import BaseModel, Field
from transformers import AutoModel, AutoTokenizer

from aerogel.models.pooling import pooling_of

FOLDER = os.environ["MODEL"]
CONCURRENT = int(os.environ.get("CONCURRENT", "1"))  # requests that a worker computes at a time, each in a thread

tokenizer = AutoTokenizer.from_pretrained(FOLDER)
model = AutoModel.from_pretrained(FOLDER).eval()
pooling = pooling_of(model)  # that of modules.json, else the mean of the tokens


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.state.free = asyncio.Semaphore(CONCURRENT)
    await asyncio.to_thread(embed, ["warm up"])
    yield


app = FastAPI(lifespan=lifespan)


class Texts(BaseModel):
    texts: list[str] = Field(min_length=1, max_length=64)


def embed(texts: list[str]) -> list[list[float]]:
    inputs = tokenizer(texts, padding=True, truncation=True, max_length=256, return_tensors="pt")
    with torch.inference_mode():
        states = model(**inputs).last_hidden_state
    pooled = pooling(states, inputs["attention_mask"])
    embeddings: list[list[float]] = torch.nn.functional.normalize(pooled, dim=1).tolist()
    return embeddings


@app.post("/embed")
async def embeddings(request: Texts) -> list[list[float]]:
    async with app.state.free:
        return await asyncio.to_thread(embed, request.texts)
