# syntax=docker/dockerfile:1
# xmasd as an image. The default target scores on the CPU; --target cuda on NVIDIA GPUs (4.5 GB more).
#
#   docker build -t xmasd .
#   docker build -t xmasd:cuda --target cuda .
#
# It runs as user 1000 on a read-only root file system and writes to /var/lib/xmasd alone.
# deploy/check/check.sh lints this file and runs these steps without a docker engine.

# node:20-bookworm has the compiler that hnswlib-node needs.
FROM node:20.20.2-bookworm AS build
WORKDIR /src
COPY package.json package-lock.json ./
# Of the packages' scripts only hnswlib-node's compilation runs. All others ship what they need.
RUN npm ci --ignore-scripts --no-audit --no-fund \
  && npm_config_nodedir=/usr/local npm rebuild hnswlib-node
COPY tsconfig.json ./
COPY src ./src
RUN npm run build && chmod +x dist/main.js

FROM build AS packages
# Only what runs here: no build tools, no binaries of other systems.
RUN npm prune --omit=dev --ignore-scripts --no-audit --no-fund \
  && find node_modules/onnxruntime-node/bin -mindepth 2 -maxdepth 2 -not -name linux -exec rm -r {} + \
  && rm -rf node_modules/hnswlib-node/build/Release/obj.target

FROM build AS tensorflow
ARG DEBIAN_FRONTEND=noninteractive
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends python3-pip && rm -rf /var/lib/apt/lists/*
COPY deploy/tensorflow ./deploy/tensorflow
# The check at its end computes on the CPU if there is no GPU.
RUN TENSORFLOW_WHEELS=/tmp/wheels npm run build:tensorflow -- --cuda && rm -rf /tmp/wheels

FROM node:20.20.2-bookworm-slim AS runtime
# Mount another file over it, or set variables, which take precedence.
ENV NODE_ENV=production XMASD_CONFIG=/etc/xmasd/xmasd.yaml
WORKDIR /opt/xmasd
RUN install -d -o 1000 -g 1000 /var/lib/xmasd/log \
  && install -d /var/lib/xmasd/images /var/lib/xmasd/proxy /var/lib/xmasd/bundle \
  && ln -s /opt/xmasd/dist/main.js /usr/local/bin/xmasd
COPY --from=packages /src/node_modules ./node_modules
COPY --from=build /src/dist ./dist
COPY package.json LICENSE ./
COPY config ./config
COPY deploy/image.yaml /etc/xmasd/xmasd.yaml
# A number, so that Kubernetes can verify that it is not root.
USER 1000:1000
VOLUME /var/lib/xmasd/log
EXPOSE 9464
# SIGTERM finishes and commits the current batch. Use --stop-timeout 120, or more for large proxies.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=10m \
  CMD ["node", "-e", "fetch('http://127.0.0.1:9464/healthz').then(r => process.exit(r.ok ? 0 : 1), () => process.exit(1))"]
ENTRYPOINT ["node", "/opt/xmasd/dist/main.js"]
CMD ["run"]

FROM runtime AS cuda
# TensorFlow brings the CUDA libraries; the machine needs only the driver (nvidia-container-toolkit).
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    XMASD_PROXY_ENGINE=tensorflow
COPY --from=tensorflow /src/deploy/tensorflow/node_modules ./deploy/tensorflow/node_modules

# The default target is the last one.
FROM runtime AS cpu
