# Compiler settings that every target of the project shares.
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_C_STANDARD 11)
set(CMAKE_C_STANDARD_REQUIRED ON)
set(CMAKE_C_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_C_FLAGS_RELEASE "-O2 -DNDEBUG")
set(CMAKE_CXX_FLAGS_RELEASE "-O2 -DNDEBUG")   # kernels/ asks for -O3 itself
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)

find_package(Threads REQUIRED)
find_program(QUANTPLUG_CCACHE ccache)
if(QUANTPLUG_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_C_COMPILER_LAUNCHER ${QUANTPLUG_CCACHE})
  set(CMAKE_CXX_COMPILER_LAUNCHER ${QUANTPLUG_CCACHE})
endif()

# bin/ holds programs, lib/ the libraries that plugins link, lib/quantplug/ plugins and their manifests only.
set(QUANTPLUG_BIN_DIR ${PROJECT_BINARY_DIR}/bin)
set(QUANTPLUG_LIB_DIR ${PROJECT_BINARY_DIR}/lib)
set(QUANTPLUG_PLUGIN_DIR ${PROJECT_BINARY_DIR}/lib/quantplug)

# quantplug_target(<name>): warnings as errors, hidden visibility, sanitizers.
function(quantplug_target name)
  # -ffp-contract=off: the same bits on every instruction set, no fused multiply-add that the source does not spell.
  # -Wno-restrict: GCC 12 warns about std::string's own operator+ (GCC bug 105651).
  target_compile_options(${name} PRIVATE $<$<COMPILE_LANGUAGE:C,CXX>:
    -Wall -Wextra -Wpedantic -Wshadow -Werror -fno-strict-aliasing -ffp-contract=off
    $<$<CXX_COMPILER_ID:GNU>:-Wno-restrict>>)
  set_target_properties(${name} PROPERTIES
    C_VISIBILITY_PRESET hidden CXX_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON
    BUILD_RPATH_USE_ORIGIN ON)
  target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR})
  if(QUANTPLUG_SANITIZE)
    # -O1 -g1: sanitized code at -O2 takes three times as long to compile.
    target_compile_options(${name} PRIVATE $<$<COMPILE_LANGUAGE:C,CXX>:
      -fsanitize=${QUANTPLUG_SANITIZE} -fno-omit-frame-pointer -O1 -g1>)
    target_link_options(${name} PRIVATE -fsanitize=${QUANTPLUG_SANITIZE})
    if(QUANTPLUG_SANITIZE MATCHES "undefined")
      target_compile_options(${name} PRIVATE -fno-sanitize-recover=all)
    endif()
  endif()
  if(QUANTPLUG_FUZZ AND CMAKE_CXX_COMPILER_ID MATCHES "Clang")
    target_compile_options(${name} PRIVATE -fsanitize=fuzzer-no-link)
  endif()
endfunction()
