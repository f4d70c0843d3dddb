/// \file
/// Fetches a published file: resumed where it was cut, its hash checked, put in its place whole or not at all. Needs
/// libcurl (link `CURL::libcurl`), and is therefore not in the umbrella.
#pragma once

#include <cctype>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <stop_token>
#include <string>
#include <string_view>
#include <thread>

#include <curl/curl.h>

#include <transferlib/core/error.hpp>
#include <transferlib/core/files.hpp>
#include <transferlib/core/hash.hpp>
#include <transferlib/core/version.hpp>

namespace transferlib {

/// How `fetch_file` fetches.
struct FetchOptions {
  std::string sha256{};  ///< of the file, in lower-case hexadecimal, or its first digits; empty: not checked
  /// Told how many bytes are there, and how many there will be: 0 where the server does not say.
  std::function<void(std::int64_t done, std::int64_t total)> progress{};
  std::stop_token stop{};  ///< obeyed within about a second
  int patience = 60;       ///< seconds without a byte after which the transfer is given up
};

/// What `fetch_file` did.
struct Fetched {
  bool was_there = false;    ///< the file lay there already, with the right hash: nothing was transferred
  std::int64_t resumed = 0;  ///< bytes that an earlier, cut transfer had left
  std::int64_t bytes = 0;    ///< of the whole file
};

namespace detail {

inline std::int64_t size_or_zero(const std::filesystem::path& path) {
  std::error_code error;
  const auto size = std::filesystem::file_size(path, error);
  return error ? 0 : static_cast<std::int64_t>(size);
}

/// One request of libcurl's, whose body goes into the partial file. Nothing is thrown through libcurl.
class Transfer {
 public:
  Transfer(const std::string& url, std::filesystem::path part, std::filesystem::path note, const FetchOptions& options)
      : part_(std::move(part)), note_(std::move(note)), options_(options), is_file_(url.starts_with("file:")) {
    static const CURLcode started = curl_global_init(CURL_GLOBAL_DEFAULT);
    curl_.reset(started == CURLE_OK ? curl_easy_init() : nullptr);
    if (curl_ == nullptr) throw Error("libcurl could not be started");
    set(CURLOPT_URL, url.c_str());
    set(CURLOPT_USERAGENT, "transferlib/" TRANSFERLIB_VERSION);
    set(CURLOPT_NOSIGNAL, 1L);
    set(CURLOPT_FOLLOWLOCATION, 1L);
    set(CURLOPT_MAXREDIRS, 10L);
    // A redirection may not leave TLS, nor reach files.
    const bool tls = url.starts_with("https:");
#if LIBCURL_VERSION_NUM >= 0x075500
    set(CURLOPT_PROTOCOLS_STR, "http,https,file");
    set(CURLOPT_REDIR_PROTOCOLS_STR, tls ? "https" : "http,https");
#else
    set(CURLOPT_PROTOCOLS, static_cast<long>(CURLPROTO_HTTP | CURLPROTO_HTTPS | CURLPROTO_FILE));
    set(CURLOPT_REDIR_PROTOCOLS, static_cast<long>(tls ? CURLPROTO_HTTPS : CURLPROTO_HTTP | CURLPROTO_HTTPS));
#endif
    set(CURLOPT_CONNECTTIMEOUT, static_cast<long>(options.patience));
    set(CURLOPT_LOW_SPEED_LIMIT, 1L);
    set(CURLOPT_LOW_SPEED_TIME, static_cast<long>(options.patience));
    set(CURLOPT_ERRORBUFFER, message_);
    set(CURLOPT_HEADERFUNCTION, &Transfer::on_header);
    set(CURLOPT_HEADERDATA, this);
    set(CURLOPT_WRITEFUNCTION, &Transfer::on_body);
    set(CURLOPT_WRITEDATA, this);
    set(CURLOPT_NOPROGRESS, 0L);
    set(CURLOPT_XFERINFOFUNCTION, &Transfer::on_progress);
    set(CURLOPT_XFERINFODATA, this);
    file_ = open_file(part_, O_WRONLY | O_CREAT, "write");
  }

  /// Asks for the bytes behind those that are there, if they are still the same file's.
  void resume() {
    std::error_code ignored;
    const std::string version = std::filesystem::exists(note_, ignored) ? read_file(note_) : std::string();
    // Without a version of the server's only the hash tells whether two halves belong together.
    if (is_file_ || (version.empty() && options_.sha256.empty())) return;
    start_ = size_or_zero(part_);
    if (start_ == 0) return;
    set(CURLOPT_RANGE, text(start_, "-").c_str());
    if (version.empty()) return;
    request_headers_.reset(curl_slist_append(nullptr, ("If-Range: " + version).c_str()));
    set(CURLOPT_HTTPHEADER, request_headers_.get());
  }

  /// Transfers. What went wrong is told by `status` and `problem`.
  /// \throws what writing, or the user's progress, threw
  void run() {
    result_ = curl_easy_perform(curl_.get());
    if (error_ == nullptr && result_ == CURLE_OK && status_is_good() && !begun_) attempt([&] { begin(); });
    if (error_ != nullptr) std::rethrow_exception(error_);
    if (result_ == CURLE_OK && status_is_good()) sync_file(file_.get(), part_);
  }

  /// The server's answer; 0 for a file's URL, or where there was none.
  long status() const {
    long code = 0;
    curl_easy_getinfo(curl_.get(), CURLINFO_RESPONSE_CODE, &code);
    return code;
  }
  /// What hindered the transfer; empty if nothing did.
  std::string problem() const {
    if (const long code = status(); code != 0 && !status_is_good()) return text("the server answers ", code);
    if (result_ == CURLE_OK) return {};
    return *message_ != '\0' ? std::string(message_) : std::string(curl_easy_strerror(result_));
  }
  /// How many bytes an earlier transfer left that are part of this one.
  std::int64_t resumed() const { return start_; }
  /// Whether the server says that what is there is all that there is.
  bool is_all_there() const { return status() == 416 && range_ == text("bytes */", size_or_zero(part_)); }

 private:
  struct Cleanup {
    void operator()(CURL* curl) const { curl_easy_cleanup(curl); }
    void operator()(curl_slist* list) const { curl_slist_free_all(list); }
  };

  template <class Value>
  void set(CURLoption option, Value value) {
    if (const CURLcode code = curl_easy_setopt(curl_.get(), option, value); code != CURLE_OK)
      throw Error(text("libcurl refused an option: ", curl_easy_strerror(code)));
  }

  template <class Work>
  bool attempt(Work&& work) {
    try {
      work();
      return true;
    } catch (...) {
      error_ = std::current_exception();
      return false;
    }
  }

  bool status_is_good() const {
    const long code = status();
    return code == 200 || (code == 206 && start_ != 0) || (code == 0 && is_file_);
  }

  /// The first byte is about to come: behind what is there, or from the beginning.
  void begin() {
    begun_ = true;
    if (status() == 206) {
      if (!range_.starts_with(text("bytes ", start_, "-")))
        throw FileError(text("the server was asked for the bytes from ", start_, " on and sends \"", range_,
                             "\"; remove ", part_, " and run again"));
      at_ = start_;
      return;
    }
    start_ = 0;
    resize_file(file_.get(), 0, part_);
    std::error_code ignored;
    std::filesystem::remove(note_, ignored);
    if (!version_.empty()) write_file(note_, version_);
  }

  static std::size_t on_header(char* data, std::size_t, std::size_t size, void* self) {
    auto& me = *static_cast<Transfer*>(self);
    const bool good = me.attempt([&] {
      std::string_view line(data, size);
      // Each answer on the way, redirections among them, begins anew.
      if (line.starts_with("HTTP/")) me.version_.clear(), me.range_.clear();
      const std::size_t colon = line.find(':');
      if (colon == std::string_view::npos) return;
      std::string name;
      for (char c : line.substr(0, colon)) name += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
      line.remove_prefix(colon + 1);
      while (!line.empty() && line.front() == ' ') line.remove_prefix(1);
      while (!line.empty() && (line.back() == '\r' || line.back() == '\n' || line.back() == ' ')) line.remove_suffix(1);
      // A weak tag does not promise the same bytes; a tag promises more than a date.
      if (name == "etag" && !line.starts_with("W/")) me.version_ = line;
      if (name == "last-modified" && me.version_.empty()) me.version_ = line;
      if (name == "content-range") me.range_ = line;
    });
    return good ? size : 0;
  }

  static std::size_t on_body(char* data, std::size_t, std::size_t size, void* self) {
    auto& me = *static_cast<Transfer*>(self);
    if (!me.status_is_good()) return 0;  // the text of an error is not wanted
    const bool good = me.attempt([&] {
      if (!me.begun_) me.begin();
      write_all_at(me.file_.get(), std::as_bytes(std::span(data, size)), static_cast<std::uint64_t>(me.at_), me.part_);
      me.at_ += static_cast<std::int64_t>(size);
    });
    return good ? size : 0;
  }

  static int on_progress(void* self, curl_off_t total, curl_off_t, curl_off_t, curl_off_t) {
    auto& me = *static_cast<Transfer*>(self);
    if (me.options_.stop.stop_requested()) return 1;
    const bool good = me.attempt([&] {
      if (me.begun_ && me.options_.progress) me.options_.progress(me.at_, total > 0 ? me.start_ + total : 0);
    });
    return good ? 0 : 1;
  }

  std::filesystem::path part_, note_;
  const FetchOptions& options_;
  bool is_file_ = false, begun_ = false;
  std::int64_t start_ = 0, at_ = 0;
  Descriptor file_;
  std::unique_ptr<CURL, Cleanup> curl_;
  std::unique_ptr<curl_slist, Cleanup> request_headers_;
  std::string version_, range_;
  std::exception_ptr error_;
  CURLcode result_ = CURLE_OK;
  char message_[CURL_ERROR_SIZE] = {};
};

}  // namespace detail

/// Fetches `url` (http, https or file) to the path `to`, whose folder is made where it is missing. While it comes it is
/// `to` with `.part` behind it, which a cut or stopped transfer leaves, and the next one goes on with if the server
/// still has the same version (If-Range) or a hash is given. Only one process transfers; another one that wants the
/// same file waits for it. A file that is there already is left if its hash is right, or none is given.
///
/// A wrong hash, or a file that the server does not have, leaves nothing.
/// \throws FileError if it can't be fetched or written, or its hash is wrong, Stopped
inline Fetched fetch_file(const std::string& url, const std::filesystem::path& to, const FetchOptions& options = {}) {
  using detail::text;
  namespace fs = std::filesystem;
  std::error_code ignored;
  const auto is_there = [&] {
    return fs::is_regular_file(to, ignored) &&
           (options.sha256.empty() || sha256(MappedFile::open(to)->bytes()).starts_with(options.sha256));
  };
  if (is_there()) return {.was_there = true, .bytes = detail::size_or_zero(to)};
  if (fs::is_directory(to, ignored)) detail::throw_errno("write", to, EISDIR, "a file's path is wanted here");
  if (!to.parent_path().empty()) make_folders(to.parent_path());
  fs::path part = to, note = to;
  part += ".part";
  note += ".part.version";
  const auto leave_nothing = [&] { fs::remove(part, ignored), fs::remove(note, ignored); };
  const auto stopped = [&] {
    return Stopped(text("fetching ", url, " was stopped; ", detail::size_or_zero(part), " bytes are kept"));
  };

  std::optional<FileLock> lock;
  while (!lock.emplace(part, false).held() || !lock->is_current()) {
    if (options.stop.stop_requested()) throw stopped();
    if (!lock->held()) std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  // Whoever had the lock may have brought the file.
  if (is_there()) {
    leave_nothing();
    return {.was_there = true, .bytes = detail::size_or_zero(to)};
  }

  std::optional<detail::Transfer> transfer;
  for (const bool resume : {true, false}) {
    transfer.emplace(url, part, note, options);
    if (resume) transfer->resume();
    try {
      transfer->run();
    } catch (...) {
      if (detail::size_or_zero(part) == 0) leave_nothing();
      throw;
    }
    if (transfer->status() != 416 || transfer->is_all_there()) break;
  }
  const std::string problem = transfer->is_all_there() ? std::string() : transfer->problem();
  if (!problem.empty()) {
    const long status = transfer->status();
    if (status == 404 || status == 410 || detail::size_or_zero(part) == 0) leave_nothing();
    const std::int64_t kept = detail::size_or_zero(part);
    if (options.stop.stop_requested()) throw stopped();
    throw FileError(text("cannot fetch ", url, ": ", problem,
                         status == 404 || status == 410 ? "; the file is not there, look for another address"
                         : kept == 0                    ? "; check the address and the network, and run again"
                                                        : text("; ", kept, " bytes are kept, run again to go on")));
  }
  if (const std::string hash = options.sha256.empty() ? std::string() : sha256(MappedFile::open(part)->bytes());
      !hash.starts_with(options.sha256)) {
    leave_nothing();
    throw FileError(text("what ", url, " gave is not the published file: its SHA-256 is ", hash, ", expected ",
                         options.sha256, "; run again, or look for another address"));
  }
  detail::put_in_place(part, to);
  detail::sync_folder_of(to);
  fs::remove(note, ignored);
  return {.resumed = transfer->resumed(), .bytes = detail::size_or_zero(to)};
}

}  // namespace transferlib
