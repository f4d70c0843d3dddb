# Published weights as a part of a build:
#
#   transferlib_fetch_weights(app resnet50 mobilenet_v3_small)
#
# While the target is built, the weights_tool fetches the named networks' published files (their hash checked, what was cut
# gone on with, once) into the folder transferlib_weights of the build, to which `weights` beside the target's program
# becomes a link: `pretrained()` looks there. TRANSFERLIB_MIRROR=http://HOST:PORT in the environment of the build takes the
# place of scheme and host. To install them beside an installed program:
#
#   install(DIRECTORY "${CMAKE_BINARY_DIR}/transferlib_weights/" DESTINATION bin/weights PATTERN ".*" EXCLUDE)

# Gives a tool libcurl where it is found; without, its `fetch` says what is missing.
function(_transferlib_link_curl tool)
  find_package(CURL QUIET)
  if(TARGET CURL::libcurl)
    target_link_libraries(${tool} PRIVATE CURL::libcurl)
    target_compile_definitions(${tool} PRIVATE TRANSFERLIB_CURL)
  endif()
endfunction()

# The tool, as it is installed or part of this build, else built from the source.
function(_transferlib_need_weights_tool)
  if(TARGET transferlib::weights_tool)
    return()
  endif()
  set(source "${CMAKE_CURRENT_FUNCTION_LIST_DIR}/../examples/tools/weights_tool.cpp")
  if(NOT EXISTS "${source}")
    message(FATAL_ERROR "transferlib_fetch_weights: transferlib was installed without its weights_tool; build it with "
      "TRANSFERLIB_EXAMPLES=ON where libcurl is (apt-get install libcurl4-openssl-dev), and install it again")
  endif()
  find_package(CURL QUIET)
  if(NOT TARGET CURL::libcurl)
    message(FATAL_ERROR "transferlib_fetch_weights needs libcurl, which was not found: apt-get install libcurl4-openssl-dev")
  endif()
  add_executable(transferlib_weights_tool EXCLUDE_FROM_ALL "${source}")
  add_executable(transferlib::weights_tool ALIAS transferlib_weights_tool)
  target_link_libraries(transferlib_weights_tool PRIVATE transferlib::transferlib)
  _transferlib_link_curl(transferlib_weights_tool)
  set_target_properties(transferlib_weights_tool PROPERTIES CXX_EXTENSIONS OFF
    RUNTIME_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/transferlib_tools")
endfunction()

# transferlib_fetch_weights(<target> <network>…): the target must be an executable of the calling folder.
function(transferlib_fetch_weights target)
  if(NOT ARGN)
    message(FATAL_ERROR "transferlib_fetch_weights(${target} …): which networks? `weights_tool backbones` lists them")
  endif()
  _transferlib_need_weights_tool()
  set(folder "${CMAKE_BINARY_DIR}/transferlib_weights")
  foreach(name IN LISTS ARGN)
    if(NOT TARGET transferlib_weights_${name})
      # Inside the folder, so that whoever removes it gets it anew.
      set(stamp "${folder}/.${name}.fetched")
      add_custom_command(OUTPUT "${stamp}"
        COMMAND transferlib::weights_tool fetch "${name}" --to "${folder}"
        COMMAND "${CMAKE_COMMAND}" -E touch "${stamp}"
        COMMENT "Fetching the published weights of ${name}" VERBATIM USES_TERMINAL)
      add_custom_target(transferlib_weights_${name} DEPENDS "${stamp}")
    endif()
    add_dependencies(${target} transferlib_weights_${name})
  endforeach()
  get_target_property(linked ${target} TRANSFERLIB_WEIGHTS_LINKED)
  if(NOT linked)
    set_target_properties(${target} PROPERTIES TRANSFERLIB_WEIGHTS_LINKED TRUE)
    add_custom_command(TARGET ${target} POST_BUILD
      COMMAND "${CMAKE_COMMAND}" -E create_symlink "${folder}" "$<TARGET_FILE_DIR:${target}>/weights" VERBATIM)
  endif()
endfunction()
