"""A release with three externals, and the repositories that they come from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vendor_helpers import Repository

from vllm_builder.cache import Cache
from vllm_builder.stages.vendor.discovery import cmake_files, discover
from vllm_builder.stages.vendor.locking import lock
from vllm_builder.stages.vendor.model import ExternalSource, Lock

CMAKE = """cmake_minimum_required(VERSION 3.18)
project(x LANGUAGES NONE)
include(FetchContent)
set(KIT_REVISION "v1.0" CACHE STRING "which")
if (DEFINED ENV{KIT_SRC_DIR})
  set(KIT_SRC_DIR $ENV{KIT_SRC_DIR})
endif()
if(KIT_SRC_DIR)
  FetchContent_Declare(kit SOURCE_DIR ${KIT_SRC_DIR})
else()
  FetchContent_Declare(
    kit
    GIT_REPOSITORY https://git.invalid/Kit.git
    # in step with KIT_REVISION above
    GIT_TAG ${KIT_REVISION}
    GIT_PROGRESS TRUE

    # Shallow works for tags only
    GIT_SHALLOW TRUE
  )
endif()
FetchContent_MakeAvailable(kit)
FetchContent_Declare(Attention GIT_REPOSITORY "https://git.invalid/attention" GIT_TAG main  # a comment
  SOURCE_SUBDIR sub CONFIGURE_COMMAND "" BUILD_COMMAND "")
FetchContent_GetProperties(Attention)
if(NOT attention_POPULATED)
  FetchContent_Populate(Attention)
endif()
set(_direct "${CMAKE_BINARY_DIR}/_deps/direct-src")
FetchContent_Populate(direct SUBBUILD_DIR "${CMAKE_BINARY_DIR}/_deps/direct-subbuild" SOURCE_DIR "${_direct}"
  BINARY_DIR "${CMAKE_BINARY_DIR}/_deps/direct-build" GIT_REPOSITORY https://git.invalid/kit GIT_TAG v2.0
  GIT_SUBMODULES "" GIT_PROGRESS TRUE)
foreach(file ${kit_SOURCE_DIR}/kit.h ${attention_SOURCE_DIR}/csrc/kit/kit.h ${direct_SOURCE_DIR}/kit.h)
  if(NOT EXISTS ${file})
    message(FATAL_ERROR "${file} is not there")
  endif()
endforeach()
"""


@dataclass
class Upstream:
    """``attention`` holds ``kit`` at v0.5 as csrc/kit, which holds ``core``; and ``unused``, which nothing names."""

    tree: Path
    kit: Repository
    attention: Repository
    core: Repository
    sources: dict[str, ExternalSource]
    cache: Cache

    def lock(self) -> Lock:
        externals = discover(self.tree, device="cuda", machine="x86_64")
        return lock(externals, self.sources, self.cache, release="1.0", cmake=cmake_files(self.tree))
