# quantplug_add_plugin(<target> NAME <name> SOURCES ... [LIBRARIES ...] [OUTPUT_DIR dir])
# A shared library with one exported symbol, quantplug_entry_v1, and its manifest beside it. Comes with find_package(quantplug) too.
function(quantplug_add_plugin target)
  cmake_parse_arguments(arg "" "NAME;OUTPUT_DIR" "SOURCES;LIBRARIES" ${ARGN})
  if(NOT arg_OUTPUT_DIR)
    if(QUANTPLUG_PLUGIN_DIR)
      set(arg_OUTPUT_DIR ${QUANTPLUG_PLUGIN_DIR})
    else()
      set(arg_OUTPUT_DIR ${CMAKE_CURRENT_BINARY_DIR})
    endif()
  endif()
  set(here ${CMAKE_CURRENT_FUNCTION_LIST_DIR})
  if(NOT EXISTS ${here}/quantplug_plugin.map)   # installed, they lie beside this file
    set(here ${CMAKE_CURRENT_FUNCTION_LIST_DIR}/../plugin_api)
  endif()
  set(script ${here}/quantplug_plugin.map)
  add_library(${target} MODULE ${arg_SOURCES})
  if(COMMAND quantplug_target)
    quantplug_target(${target})
  endif()
  find_package(Threads REQUIRED)
  target_link_libraries(${target} PRIVATE quantplug::plugin_api Threads::Threads ${arg_LIBRARIES})
  # -fno-gnu-unique: a library with STB_GNU_UNIQUE symbols can never be unloaded, and shares statics by name.
  target_compile_options(${target} PRIVATE $<$<COMPILE_LANG_AND_ID:CXX,GNU>:-fno-gnu-unique>)
  target_link_options(${target} PRIVATE "LINKER:--version-script=${script}" "LINKER:--exclude-libs,ALL")
  if(NOT QUANTPLUG_SANITIZE)
    target_link_options(${target} PRIVATE "LINKER:-z,defs")
  endif()
  set_target_properties(${target} PROPERTIES
    C_VISIBILITY_PRESET hidden CXX_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON
    PREFIX "libquantplug_" OUTPUT_NAME ${arg_NAME} SUFFIX ".so"
    LIBRARY_OUTPUT_DIRECTORY ${arg_OUTPUT_DIR} LINK_DEPENDS ${script}
    BUILD_RPATH "$ORIGIN/.." INSTALL_RPATH "$ORIGIN/..")
  file(MAKE_DIRECTORY ${arg_OUTPUT_DIR})
  set(QP_MANIFEST_NAME ${arg_NAME})
  set(QP_MANIFEST_LIBRARY libquantplug_${arg_NAME}.so)
  configure_file(${here}/manifest.json.in ${arg_OUTPUT_DIR}/${arg_NAME}.json @ONLY)
endfunction()
