# cmake -D BUILD_DIR= -D SOURCE_DIR= -D C_COMPILER= -D CXX_COMPILER= -P consume.cmake
# Installs a finished build into a fresh folder, moves that (nothing may know where it was), and builds and runs project/ against it.
set(work ${BUILD_DIR}/tests/consume_work)
file(REMOVE_RECURSE ${work})
file(MAKE_DIRECTORY ${work})

function(run)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE status OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(status)
    message(FATAL_ERROR "${ARGN} ended with ${status}:\n${output}")
  endif()
  set(output "${output}" PARENT_SCOPE)
endfunction()

run(${CMAKE_COMMAND} --install ${BUILD_DIR} --prefix ${work}/first)
file(RENAME ${work}/first ${work}/prefix)
file(GLOB_RECURSE internal ${work}/prefix/include/*)
list(FILTER internal EXCLUDE REGEX "/include/quantplug/")
if(internal)
  message(FATAL_ERROR "more than the headers of plugin_api is installed: ${internal}")
endif()

# The installed program finds the installed plugins, and they their libraries.
run(${CMAKE_COMMAND} -E env --unset=QUANTPLUG_PLUGIN_PATH ${work}/prefix/bin/quantplug plugins --json)
foreach(name exl2 gptq)
  string(FIND "${output}" "${work}/prefix/lib/quantplug/libquantplug_${name}.so" at)
  if(at EQUAL -1)
    message(FATAL_ERROR "the installed program does not list ${name}: ${output}")
  endif()
endforeach()

# Copied out of the tree, so that nothing is found by a relative path.
file(COPY ${CMAKE_CURRENT_LIST_DIR}/project DESTINATION ${work})
file(COPY ${SOURCE_DIR}/plugin_api/template_backend/template_backend.cpp DESTINATION ${work}/project)
run(${CMAKE_COMMAND} -S ${work}/project -B ${work}/build -G Ninja -D CMAKE_PREFIX_PATH=${work}/prefix -D CMAKE_BUILD_TYPE=Release
  -D CMAKE_C_COMPILER=${C_COMPILER} -D CMAKE_CXX_COMPILER=${CXX_COMPILER})
run(${CMAKE_COMMAND} --build ${work}/build)
file(WRITE ${work}/folder/words.txt "hello\nworld\n")
foreach(host host_c host_cpp)
  execute_process(COMMAND ${work}/build/${host} ${work}/build/libquantplug_template.so ${work}/folder
    RESULT_VARIABLE status OUTPUT_VARIABLE output ERROR_VARIABLE errors)
  if(status OR NOT output STREQUAL "hello world \n")
    message(FATAL_ERROR "${host} ended with ${status} and said '${output}' '${errors}', not 'hello world '")
  endif()
endforeach()
run(${SOURCE_DIR}/tests/plugin_api/exports.sh ${work}/build/libquantplug_template.so)
file(READ ${work}/build/template.json manifest)
string(JSON library GET ${manifest} library)
if(NOT library STREQUAL "libquantplug_template.so")
  message(FATAL_ERROR "the manifest names ${library}")
endif()
