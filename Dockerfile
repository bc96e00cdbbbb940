# One image for head, workers and `docker run`; the cluster's Ray must be this image's Ray.
#   docker build -t whisper-serve .                        for GPU nodes
#   docker build -t whisper-serve:cpu --build-arg DEVICE=cpu .
#   docker run --rm -p 8000:8000 whisper-serve:cpu         configs/local.yaml, for a test; downloads whisper-base
ARG DEVICE=cuda

FROM python:3.12-slim-bookworm AS base
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 RAY_USAGE_STATS_ENABLED=0
# KubeRay's worker probes call wget.
RUN apt-get update \
    && apt-get install -y --no-install-recommends wget \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 ray \
    && install -d -o ray /data /var/lib/whisper
WORKDIR /app
# Dependencies change less often than the code, so they have a layer of their own.
COPY pyproject.toml constraints.txt README.md ./
RUN mkdir serve_app deployments \
    && pip install --constraint constraints.txt '.[diarization,s3]' \
    && pip uninstall -y whisper-serve
COPY serve_app serve_app
COPY deployments deployments
COPY configs configs
COPY serve_config.yaml ./
RUN pip install --no-deps --editable .
USER ray
VOLUME /data
EXPOSE 8000
ENV STT_DATA_DIR=/data HF_HOME=/data/huggingface STT_NETWORK__ALLOW_PRIVATE_ADDRESSES=false
# Errors of Serve's own proxies, in our format: see deployments/proxy_errors.py.
ENV RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=deployments.proxy_errors:middlewares

# PyPI's torch includes CUDA's libraries; the node provides only the driver.
FROM base AS cuda
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility

FROM base AS cpu
ENV STT_WHISPER__DEVICE=cpu

FROM ${DEVICE}
CMD ["python", "-m", "deployments", "--host", "0.0.0.0"]
