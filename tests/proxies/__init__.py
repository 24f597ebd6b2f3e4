"""graceserve behind what it will stand behind: curl as it is, nginx, HAProxy and Apache, all real."""
