-- The 8 headers of a request that came through a proxy. Path, X-Forwarded-For and Cookie are new in each request, so
-- that a server cannot win by remembering whole heads.

local number = 0
local before = "GET /?page="
local middle = " HTTP/1.1\r\nHost: shop.example\r\nX-Forwarded-For: 203.0.113."
local after = "\r\nX-Forwarded-Proto: https\r\nX-Real-IP: 203.0.113.77\r\n" ..
  "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n" ..
  "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n" ..
  "Accept-Encoding: gzip, deflate, br, zstd\r\nCookie: theme=dark; sessionid=b5d6b1a4c0ffee"
local finish = "\r\n\r\n"

function request()
  number = number + 1
  return before .. number .. middle .. number % 254 .. after .. number .. finish
end
