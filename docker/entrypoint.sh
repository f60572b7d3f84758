#!/bin/sh
# Finds the engine that this container runs, or builds it for the GPU that is there, once; then starts the command.
#
#   $TOOLCHAIN_ENGINE (/engine)   an engine folder, mounted or copied in: taken as it is
#   $TOOLCHAIN_MODEL (/model)     an ONNX folder of 'toolchain export' or 'optimize': built at the first boot
#
# What is built stays in $TOOLCHAIN_STORE, under a key that holds the GPU and the libraries: the next boot finds it, and
# another GPU gets an engine of its own. $TOOLCHAIN_CURRENT/engine is what the health check and the command open; it is
# this container's own, because others may share the store.
set -eu

current=$TOOLCHAIN_CURRENT/engine
mkdir -p "$TOOLCHAIN_CURRENT"
if [ -f "$TOOLCHAIN_ENGINE/engine.json" ]; then
    ln -sfnT "$TOOLCHAIN_ENGINE" "$current"
elif [ -f "$TOOLCHAIN_MODEL/model.onnx" ]; then
    rm -f "$current"
    toolchain build "$TOOLCHAIN_MODEL" --engine "$TOOLCHAIN_BUILD" --task "$TOOLCHAIN_TASK" --json >"$TOOLCHAIN_CURRENT/built.json"
    built=$(python -c 'import json, sys; print(json.load(open(sys.argv[1]))[0]["path"])' "$TOOLCHAIN_CURRENT/built.json")
    ln -sfnT "$built" "$current"
else
    echo "there is no engine: mount an engine folder at $TOOLCHAIN_ENGINE, or an ONNX folder at $TOOLCHAIN_MODEL" >&2
    exit 1
fi
exec "$@"
