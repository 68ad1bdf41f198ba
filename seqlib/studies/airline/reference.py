"""The plain loop: the module as published, a DataLoader, one model at a time.

Records of `engine="loop"` come from here. They time what the seed document timed, and they are an
independent check on the stacked trainer; `seqlib bench airline` compares the two.
"""

import time

import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from seqlib.studies.airline.protocol import Windows


def train_loop(build, windows: Windows, seed: int, *, epochs: int, batch: int, lr: float,
               weight_decay: float, device: torch.device | str = "cpu"):
    """Trained module, curves {name: (epochs,)} and seconds."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build().to(device)
        x, y = (torch.tensor(v["train"], dtype=torch.float32) for v in (windows.x, windows.target))
        x_val, y_val = (torch.tensor(v["validation"], dtype=torch.float32, device=device)
                        for v in (windows.x, windows.target))
        loader = DataLoader(TensorDataset(x, y), batch_size=batch, shuffle=True)
        optimizer = torch.optim.Adam(model.parameters(), lr=lr, weight_decay=weight_decay)
        curves = {"train_loss": [], "val_loss": []}
        started = time.perf_counter()
        for _ in range(epochs):
            model.train()
            squared = 0.0
            for xb, yb in loader:
                loss = F.mse_loss(model(xb.to(device)), yb.to(device))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                squared += loss.item() * len(xb)
            model.eval()
            with torch.no_grad():
                curves["val_loss"].append(F.mse_loss(model(x_val), y_val).item())
            curves["train_loss"].append(squared / len(x))
        return model, curves, time.perf_counter() - started


def predict_loop(model, x: np.ndarray) -> np.ndarray:
    """Standardised predictions (n,) for windows x (n, T)."""
    with torch.no_grad():
        device = next(model.parameters()).device
        return model(torch.tensor(x, dtype=torch.float32, device=device)).cpu().numpy()
