# quantplug_add_plugin(<target> NAME <name> SOURCES ... [LIBRARIES ...] [OUTPUT_DIR dir])
# A shared library with one exported symbol, quantplug_entry_v1, and its manifest beside it.
function(quantplug_add_plugin target)
  cmake_parse_arguments(arg "" "NAME;OUTPUT_DIR;RPATH" "SOURCES;LIBRARIES" ${ARGN})
  if(NOT arg_OUTPUT_DIR)
    set(arg_OUTPUT_DIR ${QUANTPLUG_PLUGIN_DIR})
  endif()
  set(script ${PROJECT_SOURCE_DIR}/plugin_api/quantplug_plugin.map)
  add_library(${target} MODULE ${arg_SOURCES})
  quantplug_target(${target})
  target_link_libraries(${target} PRIVATE quantplug::plugin_api ${arg_LIBRARIES})
  # -fno-gnu-unique: a library with STB_GNU_UNIQUE symbols can never be unloaded, and shares statics by name.
  target_compile_options(${target} PRIVATE $<$<CXX_COMPILER_ID:GNU>:-fno-gnu-unique>)
  target_link_options(${target} PRIVATE "LINKER:--version-script=${script}" "LINKER:--exclude-libs,ALL")
  if(NOT QUANTPLUG_SANITIZE)
    target_link_options(${target} PRIVATE "LINKER:-z,defs")
  endif()
  set_target_properties(${target} PROPERTIES
    PREFIX "libquantplug_" OUTPUT_NAME ${arg_NAME} SUFFIX ".so"
    LIBRARY_OUTPUT_DIRECTORY ${arg_OUTPUT_DIR} LINK_DEPENDS ${script}
    BUILD_RPATH "$ORIGIN/.." INSTALL_RPATH "$ORIGIN/..")
  file(MAKE_DIRECTORY ${arg_OUTPUT_DIR})
  set(QP_MANIFEST_NAME ${arg_NAME})
  set(QP_MANIFEST_LIBRARY libquantplug_${arg_NAME}.so)
  configure_file(${PROJECT_SOURCE_DIR}/plugin_api/manifest.json.in ${arg_OUTPUT_DIR}/${arg_NAME}.json @ONLY)
endfunction()
