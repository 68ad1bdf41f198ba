def headline(): return "x"
