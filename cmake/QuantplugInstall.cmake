# cmake --install: headers and find_package(quantplug), the program, the libraries and the plugins.
include(CMakePackageConfigHelpers)
install(DIRECTORY plugin_api/include/quantplug DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(TARGETS quantplug_plugin_api EXPORT quantplug_targets)
install(EXPORT quantplug_targets NAMESPACE quantplug:: FILE quantplug-targets.cmake DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/quantplug)
configure_package_config_file(cmake/quantplug-config.cmake.in ${PROJECT_BINARY_DIR}/quantplug-config.cmake
  INSTALL_DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/quantplug)
write_basic_package_version_file(${PROJECT_BINARY_DIR}/quantplug-config-version.cmake COMPATIBILITY SameMajorVersion)
install(FILES ${PROJECT_BINARY_DIR}/quantplug-config.cmake ${PROJECT_BINARY_DIR}/quantplug-config-version.cmake
    cmake/QuantplugPlugin.cmake plugin_api/quantplug_plugin.map plugin_api/manifest.json.in
  DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/quantplug)

# The program looks for plugins in ../lib/quantplug, a plugin for the kernels in $ORIGIN/..: lib, not lib/<triplet>.
install(TARGETS quantplug RUNTIME DESTINATION bin)
install(TARGETS quantplug_kernels LIBRARY DESTINATION lib NAMELINK_SKIP)
if(TARGET quantplug_sentencepiece)
  install(TARGETS quantplug_sentencepiece LIBRARY DESTINATION lib)
endif()
foreach(name exl2 gptq)
  install(TARGETS quantplug_${name} LIBRARY DESTINATION lib/quantplug)
  install(FILES ${QUANTPLUG_PLUGIN_DIR}/${name}.json DESTINATION lib/quantplug)
endforeach()
