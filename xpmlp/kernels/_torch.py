"""PyTorch's own versions: its fused elementwise operations, in place, and products written into their places."""

from typing import Any

import torch


def new_gradient(theta: Any) -> Any:
    return torch.empty_like(theta)


def product(A: Any, B: Any, out: Any) -> Any:
    return A @ B if out is None else torch.matmul(A, B, out=out)


def column_sums(delta: Any, out: Any) -> Any:
    return torch.sum(delta, dim=-2, keepdim=True, out=out)


def bias_relu(Z: Any, b: Any) -> Any:
    return Z.add_(b).relu_()


def relu_backward(A: Any, dA: Any) -> Any:
    return torch.ops.aten.threshold_backward(dA, A, 0)


def momentum_step(
    theta: Any, velocity: Any, gradient: Any, *, rate: Any, momentum: Any, nesterov: bool, rate_inside: bool
) -> tuple[Any, Any]:
    change = gradient * -rate if rate_inside else gradient
    velocity.mul_(momentum).add_(change)
    if not nesterov:
        direction = velocity
    elif isinstance(momentum, torch.Tensor):
        direction = change + momentum * velocity
    else:
        direction = torch.add(change, velocity, alpha=momentum)
    # alpha=rate would refuse a rate beyond float32, which is for the loss to show
    return theta.add_(direction) if rate_inside else theta.sub_(direction * rate), velocity


def adam_step(
    theta: Any, m: Any, v: Any, gradient: Any, *, rate: Any, beta1: float, beta2: float, epsilon: Any
) -> tuple[Any, Any, Any]:
    m.lerp_(gradient, 1 - beta1)
    v.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    theta.sub_(v.sqrt().add_(epsilon).reciprocal_().mul_(m).mul_(rate))
    return theta, m, v
