# An image with the command `runner`, for jobs that are mounted or copied into /home/job.
#
#     docker build -t runner .
#     docker run --rm -v "$PWD:/home/job" --user "$(id -u):$(id -g)" runner            # runner run tasks.toml
#
# The image of one job begins with it, and takes what its functions import into the same environment:
#
#     FROM runner
#     USER root
#     RUN pip --python /opt/runner install --no-cache-dir pillow
#     COPY tasks.toml ./
#     COPY plugins ./plugins
#     USER 10001:10001
ARG PYTHON=3.11
FROM python:${PYTHON}-slim AS build
WORKDIR /opt/src
COPY pyproject.toml README.md LICENSE ./
COPY man ./man
COPY runner ./runner
RUN python -m venv /opt/runner
RUN /opt/runner/bin/python -m pip install --no-cache-dir . && /opt/runner/bin/python -m pip uninstall --yes setuptools pip

FROM python:${PYTHON}-slim
RUN groupadd --gid 10001 job && useradd --uid 10001 --gid 10001 --home-dir /home/job --no-create-home job
RUN install --directory --owner=10001 --group=10001 /home/job
COPY --from=build /opt/runner /opt/runner
ENV PATH=/opt/runner/bin:$PATH
WORKDIR /home/job
USER 10001:10001
# As process 1 runner reaps orphans and passes signals on. SIGTERM drains within the file's `grace`.
STOPSIGNAL SIGTERM
ENTRYPOINT ["runner", "run"]
