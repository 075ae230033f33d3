# Both images:  docker build --target operator -t vectorizer-operator .
#               docker build --target engine -t vectorizer .
# What is installed is what requirements/ holds, hash by hash, from wheels, and the wheel of this project: only the stage
# that builds that one has a compiler, and the final images have no pip. They run as user 65532 and write nowhere but to
# what is mounted (and /tmp).

FROM python:3.11-slim AS base
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
RUN python -m venv --without-pip /opt/vectorizer

FROM python:3.11 AS wheel
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
COPY requirements/build.txt requirements/
RUN pip install --only-binary :all: --require-hashes -r requirements/build.txt
COPY pyproject.toml hatch_build.py README.md LICENSE ./
COPY engine/ engine/
COPY operator/ operator/
RUN hatchling build -t wheel -d /dist

FROM base AS operator-build
COPY requirements/operator.txt /
RUN pip --python /opt/vectorizer install --only-binary :all: --require-hashes -r /operator.txt
COPY --from=wheel /dist/ /dist/
RUN pip --python /opt/vectorizer install --no-deps --no-index /dist/*.whl

FROM base AS engine-build
COPY requirements/engine.txt /
RUN pip --python /opt/vectorizer install --only-binary :all: --require-hashes -r /engine.txt
COPY --from=wheel /dist/ /dist/
RUN pip --python /opt/vectorizer install --no-deps --no-index /dist/*.whl

FROM python:3.11-slim AS runtime
RUN python -m pip uninstall --yes --root-user-action=ignore setuptools wheel pip \
    && rm -rf /usr/local/lib/python3.11/ensurepip
# HOME: the user has no entry in /etc/passwd, and libraries that look for a home shall find a writable one.
ENV HOME=/tmp PATH=/opt/vectorizer/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 65532:65532

FROM runtime AS operator
COPY --from=operator-build /opt/vectorizer /opt/vectorizer
ENTRYPOINT ["vectorizer-operator"]
CMD ["run"]

FROM runtime AS engine
COPY --from=engine-build /opt/vectorizer /opt/vectorizer
EXPOSE 6333
ENTRYPOINT ["vectorizer"]
CMD ["serve", "--config", "/etc/vectorizer/config.yml"]
